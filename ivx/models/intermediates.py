"""Intermediate activations of a model, for comparing two models part by part.

The computation is unchanged, but the scan over layers returns the output of each layer instead of
its cache. Training and sampling do not depend on this module.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from data_pipelines.batch import Batch
from ivx.models.model import VideoLanguageModel
from ivx.models.rope import Rope


class Intermediates(NamedTuple):
    """Outputs of the parts, at C selected tokens of each row.

    Attributes:
      words: [B, C, D], the embedding of every token, including visual tokens.
      taps: [taps, B, G, D], DeepStack features. HF: visual.deepstack_merger_list.{i}.
      visual: [B, G, D], merged visual tokens. HF: visual.merger.
      layers: [L, B, C, D], before DeepStack features are added. HF: language_model.layers.{i}.
      final: [B, C, D], after the final norm. HF: language_model.norm.
      logits: float32 [B, C, V].
    """

    words: Array
    taps: Array
    visual: Array
    layers: Array
    final: Array
    logits: Array


def intermediates(
    model: VideoLanguageModel, batch: Batch, selected_bc: Int[Array, "b c"]
) -> Intermediates:
    """Runs a batch and returns its intermediates. Modifies `model`, so bind a separate one.

    Args:
      model: bound inside a jitted function.
      batch: packs.
      selected_bc: indices of the tokens; the logits of all T would be too large.
    """
    visual = model.visual(batch.patches, batch.slices, batch.grid, batch.slice_block)
    words_btd = model.embed_tokens(batch.tokens)
    model.language_model.layers = _OutputAsCache(model.language_model.layers)
    output = model(batch, keep_cache=True)

    def select(x: Array) -> Array:
        indices = selected_bc.reshape(*(1,) * (x.ndim - 3), *selected_bc.shape, 1)
        return jnp.take_along_axis(x, indices, -2)

    final_bcd = select(output.hidden)
    return Intermediates(
        select(words_btd),
        visual.features,
        visual.tokens,
        select(output.cache),
        final_bcd,
        model.logits(final_bcd),
    )


class _OutputAsCache(nnx.Module):
    """A decoder layer that returns its output in place of the cache."""

    def __init__(self, block: nnx.Module) -> None:
        self.block = block

    def __call__(
        self, x_btd: Float[Array, "b t d"], rope: Rope, segments_bt: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        x_btd, _ = self.block(x_btd, rope, segments_bt)
        return x_btd, x_btd
