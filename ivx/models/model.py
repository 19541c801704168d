"""The full model: a vision tower whose tokens replace placeholders in the text, and a decoder.

    visual  = tower(patches)                          merged tokens, and DeepStack features per tap
    x       = where(visual token, visual.tokens, embedding(tokens))
    hidden  = decoder(x)                              adds the features of tap i after layer i
    logits  = hidden head                             in the loss or the sampler, not here

Shapes: tokens_bt, x_btd, features_jbtd with J = 1 + taps, head_dv.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from data_pipelines.batch import Batch
from ivx.models.decoder import Cache, Decoder
from ivx.models.layers import linear
from ivx.models.rope import Rope, text_rope
from ivx.models.spec import ModelSpec
from ivx.models.vision import VisionTower
from ivx.models.visual_tokens import features_at_tokens
from ivx.parallel.sharding import AXES


class Output(NamedTuple):
    """Final hidden states, and caches if requested.

    Attributes:
      hidden: [B, T, D], after the final norm.
      cache: for a full sequence, the caches of all layers stacked on axis 0; after `decode`, one
        per layer.
    """

    hidden: Array
    cache: Cache | tuple[Cache, ...] | None


class VideoLanguageModel(nnx.Module):
    """InternVideo3 (attention m2la) or Qwen3-VL (gqa).

    HF names: model.visual, model.language_model, lm_head (absent if embeddings are tied).
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs) -> None:
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

    def __call__(self, batch: Batch, keep_cache: bool = False) -> Output:
        """Runs a batch of packs; `keep_cache` also returns the caches of all layers."""
        # Callers may close over a numpy batch.
        batch = jax.tree.map(jnp.asarray, batch)
        visual = self.visual(batch.patches, batch.slices, batch.grid, batch.slice_block)
        words_btd = self.embed_tokens(batch.tokens)
        is_visual_bt1 = batch.visual_index[..., None] >= 0
        features_jbtd = features_at_tokens(
            jnp.concatenate([visual.tokens[None], visual.features]), batch.visual_index
        )
        x_btd = jnp.where(is_visual_bt1, features_jbtd[0], words_btd)
        rope = self._rope(batch.positions)
        hidden_btd, cache = self.language_model(
            x_btd, rope, batch.segments, features_jbtd[1:], keep_cache
        )
        return Output(hidden_btd, cache)

    def decode(
        self,
        tokens_bt: Int[Array, "b t"],
        positions_bt: Int[Array, "b t"],
        layers: Sequence[nnx.State],
        caches: Sequence[Cache],
        lengths_b: Int[Array, " b"],
    ) -> Output:
        """Runs T new text tokens per sequence: one to decode, more of a draft or a prompt.

        Args:
          tokens_bt: new tokens.
          positions_bt: their positions, equal on all three axes.
          layers: parameters of the decoder layers, from `Decoder.unstack`.
          caches: one per layer.
          lengths_b: number of cache entries in use; new entries are written after them.
        """
        x_btd = self.embed_tokens(tokens_bt)
        rope = self._rope(jnp.repeat(positions_bt[:, None], 3, 1))
        return Output(*self.language_model.decode(x_btd, rope, layers, caches, lengths_b))

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Logits over the vocabulary, accumulated in float32 as in the loss."""
        return jnp.einsum("...d,dv->...v", hidden, self.head(), preferred_element_type=jnp.float32)

    def head(self) -> Float[Array, "d v"]:
        """The output matrix, in the compute dtype."""
        if self.spec.text.tied:
            head_dv = self.embed_tokens.embedding[...].T
        else:
            head_dv = self.lm_head.kernel[...]
        return head_dv.astype(self.spec.dtype)

    def _rope(self, positions_b3t: Int[Array, "b 3 t"]) -> Rope:
        text = self.spec.text
        return text_rope(positions_b3t, text.head_dim, text.rope_theta, text.mrope_sections)
