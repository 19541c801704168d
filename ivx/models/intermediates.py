"""What passes between the parts of a model, so that two models can be told apart part by part.

The model computes as it always does; only what its scan over layers keeps is another: the output
of each layer in place of the cache. Training and sampling know nothing of this.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ivx.models.model import VideoLanguageModel
from ivx.models.rope import Rope


class Intermediates(NamedTuple):
    """Outputs of the parts, at C chosen tokens of each row.

    Attributes:
      words: [B, C, D], the embedding of every token, visual ones included.
      taps: [taps, B, G, D], DeepStack features. HF: visual.deepstack_merger_list.{i}.
      visual: [B, G, D], merged visual tokens. HF: visual.merger.
      layers: [L, B, C, D], before DeepStack features are added. HF: language_model.layers.{i}.
      final: [B, C, D], normed. HF: language_model.norm.
      logits: float32 [B, C, V].
    """

    words: Array
    taps: Array
    visual: Array
    layers: Array
    final: Array
    logits: Array


def intermediates(model: VideoLanguageModel, batch, chosen_bc: Int[Array, "b c"]) -> Intermediates:
    """Runs a batch and keeps what passes; `model` is changed, so bind one for this alone.

    Args:
      model: bound inside a jitted function.
      batch: a `data_pipelines.batch.Batch`.
      chosen_bc: tokens that are looked at; T of them would be too many at a large vocabulary.
    """
    seen = model.visual(batch.patches, batch.slices, batch.grid, batch.slice_block)
    words_btd = model.embed_tokens(batch.tokens)
    model.language_model.layers = _Kept(model.language_model.layers)
    output = model(batch, keep_cache=True)

    def pick(x: Array) -> Array:
        where = chosen_bc.reshape(*(1,) * (x.ndim - 3), *chosen_bc.shape, 1)
        return jnp.take_along_axis(x, where, -2)

    final_bcd = pick(output.hidden)
    return Intermediates(
        pick(words_btd),
        seen.features,
        seen.tokens,
        pick(output.cache),
        final_bcd,
        model.logits(final_bcd),
    )


class _Kept(nnx.Module):
    """Decoder layers that keep their output instead of a cache."""

    def __init__(self, block: nnx.Module):
        self.block = block

    def __call__(
        self, x_btd: Float[Array, "b t d"], rope: Rope, segments_bt: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        x_btd, _ = self.block(x_btd, rope, segments_bt)
        return x_btd, x_btd
