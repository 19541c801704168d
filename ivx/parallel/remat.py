"""What a layer keeps for the backward pass and what is made again, by name.

    none           everything is kept
    dots           results of products with weights, not scores of attention
    all_attention  as `attention`, and what attention gave in each block of the vision tower
    attention      of each layer its input, the latent, and what attention gave: attention, which
                   costs most where packs are long, is not run again
    latent         of each layer its input and the latent of its attention (R + P numbers a token)
    layer          only the input of each layer
    offload        as `layer`, with those inputs in the host's memory between forward and backward

Values that a policy speaks of carry a name, given by `named` where they are made.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from ivx.errors import UserError

# Names of values: the input of a layer, and what a latent cache would hold of a token.
RESIDUAL, LATENT = "residual", "latent"
# What attention gives: the result, and the log of the sum of each softmax.
ATTENTION = ("attention_out", "attention_lse")
VISION_ATTENTION = ("vision_attention_out", "vision_attention_lse")

_kept = jax.checkpoint_policies

NAMES = ("none", "dots", "all_attention", "attention", "latent", "layer", "offload")


def named(array: jax.Array, name: str) -> jax.Array:
    """The array, known to policies by this name."""
    return checkpoint_name(array, name)


def remat(policy: str) -> Callable[[Callable], Callable]:
    """What to wrap the body of a scan over layers in.

    Raises:
      UserError: no such policy, or `offload` on devices that know no pinned host memory.
    """
    if policy == "none":
        return lambda layer: layer
    policies = {
        "dots": lambda: _kept.dots_with_no_batch_dims_saveable,
        "all_attention": lambda: _kept.save_only_these_names(LATENT, *ATTENTION, *VISION_ATTENTION),
        "attention": lambda: _kept.save_only_these_names(LATENT, *ATTENTION),
        "latent": lambda: _kept.save_only_these_names(LATENT),
        "layer": lambda: None,
        "offload": _offload,
    }
    if policy not in policies:
        raise UserError(f"model.remat = {policy!r}: expected one of {', '.join(NAMES)}")
    kept = policies[policy]()
    return lambda layer: jax.checkpoint(layer, policy=kept)


def check_offload(devices) -> None:
    """Makes sure that these devices can lay arrays into their host's memory.

    Raises:
      UserError: they cannot.
    """
    for device in devices:
        kinds = [memory.kind for memory in device.addressable_memories()]
        if "pinned_host" not in kinds:
            raise UserError(
                f"model.remat = offload needs devices with pinned host memory; {device} has"
                f" {', '.join(kinds)}: take model.remat = layer"
            )


def _offload():
    return _kept.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[RESIDUAL],
        offload_src="device",
        offload_dst="pinned_host",
    )
