"""The whole model: a vision tower whose tokens stand among the words, and a decoder over both."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ivx.models.decoder import Cache, Decoder
from ivx.models.linear import linear
from ivx.models.rope import text_rope
from ivx.models.spec import ModelSpec
from ivx.models.vision import VisionTower
from ivx.models.visual_tokens import place
from ivx.parallel.rules import AXES


class Output(NamedTuple):
    """Final hidden states [B, T, D], normed, and caches.

    After a whole sequence those of all layers as one, stacked on axis 0, if they were asked for;
    after `decode` one a layer.
    """

    hidden: Array
    cache: Cache | tuple[Cache, ...] | None


class VideoLanguageModel(nnx.Module):
    """InternVideo3 (attention m2la) or Qwen3-VL (gqa).

    HF names: model.visual, model.language_model, lm_head (absent where embeddings are tied).
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        text, dtype = spec.text, jnp.dtype(spec.dtype)
        self.spec = spec
        self.visual = VisionTower(spec.vision, text.width, dtype, spec.remat, rngs)
        self.embed_tokens = nnx.Embed(
            text.vocab,
            text.width,
            dtype=dtype,
            embedding_init=nnx.initializers.normal(0.02),
            embedding_metadata={AXES: ("vocab", "embed")},
            rngs=rngs,
        )
        self.language_model = Decoder(text, dtype, spec.remat, rngs)
        if not text.tied:
            axes = ("embed", "vocab")
            self.lm_head = linear(text.width, text.vocab, axes, rngs=rngs, dtype=dtype)

    def __call__(self, batch, keep_cache: bool = False) -> Output:
        """Runs a batch of packs.

        Args:
          batch: a `data_pipelines.batch.Batch`; its targets and weights are not looked at.
          keep_cache: also return the caches of all layers.
        """
        seen = self.visual(batch.patches, batch.slices, batch.grid, batch.slice_block)
        words = self.embed_tokens(batch.tokens)
        visual = batch.visual_index[..., None] >= 0
        placed = place(jnp.concatenate([seen.tokens[None], seen.features]), batch.visual_index)
        x_btd = jnp.where(visual, placed[0], words)
        rope = self._rope(batch.positions)
        return Output(*self.language_model(x_btd, rope, batch.segments, placed[1:], keep_cache))

    def decode(
        self,
        tokens_bt: Int[Array, "b t"],
        positions_bt: Int[Array, "b t"],
        layers: Sequence[nnx.State],
        caches: Sequence[Cache],
        lengths_b: Int[Array, " b"],
    ) -> Output:
        """Runs T new text tokens a sequence: one when decoding, more of a draft or a prompt.

        Args:
          tokens_bt: the tokens.
          positions_bt: their positions, equal on all three axes.
          layers: parameters of the decoder as `Decoder.unstack` gives them.
          caches: one a layer.
          lengths_b: entries of the caches in use; the new ones are written from there on.
        """
        x_btd = self.embed_tokens(tokens_bt)
        rope = self._rope(jnp.repeat(positions_bt[:, None], 3, 1))
        return Output(*self.language_model.decode(x_btd, rope, layers, caches, lengths_b))

    def logits(self, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Scores of the vocabulary, accumulated in float32 as in the loss."""
        return jnp.einsum("...d,dv->...v", hidden, self.head(), preferred_element_type=jnp.float32)

    def head(self) -> Float[Array, "d v"]:
        """What scores the vocabulary, in the dtype of computation."""
        if self.spec.text.tied:
            head_dv = self.embed_tokens.embedding[...].T
        else:
            head_dv = self.lm_head.kernel[...]
        return head_dv.astype(self.spec.dtype)

    def _rope(self, positions: Array):
        text = self.spec.text
        return text_rope(positions, text.head_dim, text.rope_theta, text.mrope_sections)
