"""Rematerialization policies by name: what a layer saves for the backward pass.

    none           saves everything
    dots           saves products with weights, but not attention scores
    all_attention  as `attention`, plus the attention outputs of each vision block
    attention      saves the input, the latent and the attention output of each layer, so that
                   attention, the main cost of long packs, is not recomputed
    latent         saves the input of each layer and the latent of its attention (R + P per token)
    layer          saves only the input of each layer
    offload        as `layer`, with the inputs in host memory between forward and backward

`named` gives values the names that the policies refer to.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from ivx.errors import UserError

# Names of values: the input of a layer, and the latent cache entry of a token.
RESIDUAL, LATENT = "residual", "latent"
# Attention output, and the log-sum-exp of each softmax.
ATTENTION = ("attention_out", "attention_lse")
VISION_ATTENTION = ("vision_attention_out", "vision_attention_lse")

_policies = jax.checkpoint_policies

NAMES = ("none", "dots", "all_attention", "attention", "latent", "layer", "offload")


def named(array: jax.Array, name: str) -> jax.Array:
    """The array, tagged with a name for the policies."""
    return checkpoint_name(array, name)


def remat(policy: str) -> Callable[[Callable], Callable]:
    """A decorator for the body of a scan over layers.

    Raises:
      UserError: the policy is unknown.
    """
    if policy == "none":
        return lambda layer: layer
    policies = {
        "dots": lambda: _policies.dots_with_no_batch_dims_saveable,
        "all_attention": lambda: _policies.save_only_these_names(
            LATENT, *ATTENTION, *VISION_ATTENTION
        ),
        "attention": lambda: _policies.save_only_these_names(LATENT, *ATTENTION),
        "latent": lambda: _policies.save_only_these_names(LATENT),
        "layer": lambda: None,
        "offload": _offload,
    }
    if policy not in policies:
        raise UserError(f"model.remat = {policy!r}: expected one of {', '.join(NAMES)}")
    selected = policies[policy]()
    return lambda layer: jax.checkpoint(layer, policy=selected)


def check_offload(devices: Iterable[Any]) -> None:
    """Checks that these devices support pinned host memory.

    Raises:
      UserError: a device does not.
    """
    for device in devices:
        kinds = [memory.kind for memory in device.addressable_memories()]
        if "pinned_host" not in kinds:
            raise UserError(
                f"model.remat = offload needs devices with pinned host memory; {device} has"
                f" {', '.join(kinds)}: use model.remat = layer"
            )


def _offload() -> Callable:
    return _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[RESIDUAL],
        offload_src="device",
        offload_dst="pinned_host",
    )
