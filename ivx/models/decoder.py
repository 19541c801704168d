"""The text decoder: pre-norm attention and SwiGLU, stacked and scanned, with DeepStack injection.

    x += attention(rms(x));  x += down(silu(gate(rms(x))) * up(rms(x)))

After each of the first layers, the features of one tap of the vision tower are added at visual
tokens.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ivx.kernels.latent_decode.cache import LatentCache, PagedCache
from ivx.models.exact_latent_attention import ExactLatentAttention
from ivx.models.grouped_attention import GroupedAttention, GroupedCache
from ivx.models.latent_attention import LatentAttention
from ivx.models.layers import linear, rms_norm, stack
from ivx.models.rope import Rope
from ivx.models.spec import TextSpec
from ivx.parallel import remat as policies
from ivx.parallel import zigzag
from ivx.parallel.sharding import constrain

# The cache of a layer: arrays [B, ..., S, n], or pages of them.
Cache = LatentCache | PagedCache | GroupedCache
# The cache of a layer, or what a module in place of its attention returns, such as statistics.
LayerCache = Any

ATTENTION = {
    "m2la": LatentAttention,
    "m2la_exact": ExactLatentAttention,
    "gqa": GroupedAttention,
}


class FeedForward(nnx.Module):
    """SwiGLU. HF names: mlp.{gate,up,down}_proj."""

    def __init__(self, spec: TextSpec, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.gate_proj = linear(spec.width, spec.mlp, ("embed", "mlp"), rngs=rngs, dtype=dtype)
        self.up_proj = linear(spec.width, spec.mlp, ("embed", "mlp"), rngs=rngs, dtype=dtype)
        self.down_proj = linear(
            spec.mlp, spec.width, ("mlp", "embed"), scale=0.5 / spec.depth, rngs=rngs, dtype=dtype
        )

    def __call__(self, x_btd: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x_btd)) * self.up_proj(x_btd))


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, spec: TextSpec, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.input_layernorm = _rms_norm(spec, dtype, rngs)
        self.self_attn = ATTENTION[spec.attention](spec, dtype, rngs)
        self.post_attention_layernorm = _rms_norm(spec, dtype, rngs)
        self.mlp = FeedForward(spec, dtype, rngs)

    def __call__(self, x_btd: Array, rope: Rope, segments_bt: Array) -> tuple[Array, LayerCache]:
        """Runs a full sequence; also returns its cache."""
        attended, cache = self.self_attn(self.input_layernorm(x_btd), rope, segments_bt)
        return self._feed_forward(x_btd + attended), cache

    def decode(
        self, x_btd: Array, rope: Rope, cache: Cache, lengths_b: Array
    ) -> tuple[Array, Cache]:
        """Runs new tokens; also returns the cache with their entries."""
        attended, cache = self.self_attn.decode(self.input_layernorm(x_btd), rope, cache, lengths_b)
        return self._feed_forward(x_btd + attended), cache

    def _feed_forward(self, x_btd: Array) -> Array:
        return x_btd + self.mlp(self.post_attention_layernorm(x_btd))


class Decoder(nnx.Module):
    """All layers and the final norm. HF names: layers.{i}, norm."""

    def __init__(self, spec: TextSpec, dtype: DTypeLike, remat: str, rngs: nnx.Rngs) -> None:
        self.depth, self.remat, self.dtype = spec.depth, remat, dtype
        self.layers = stack(Block, spec.depth, spec, dtype, rngs=rngs)
        self.norm = _rms_norm(spec, dtype, rngs)

    def __call__(
        self,
        x_btd: Float[Array, "b t d"],
        rope: Rope,
        segments_bt: Int[Array, "b t"],
        deepstack_jbtd: Float[Array, "j b t d"],
        keep_cache: bool = False,
    ) -> tuple[Float[Array, "b t d"], LayerCache]:
        """Runs a full sequence.

        Args:
          x_btd: embedded tokens.
          rope: rotary table.
          segments_bt: sample id of each token, 0 for padding.
          deepstack_jbtd: features to add after each of the first layers, 0 at text tokens.
          keep_cache: also return the caches, stacked on a new axis 0.
        """
        graph, layers = nnx.split(self.layers)
        # Until the end, packs may be sharded along `context` in zigzag order.
        x_btd, segments_bt = zigzag.to_zigzag(x_btd), zigzag.to_zigzag(segments_bt)
        rope = Rope(*(zigzag.to_zigzag(a) for a in rope))
        deepstack_jbtd = jax.lax.map(zigzag.to_zigzag, deepstack_jbtd)

        @policies.remat(self.remat)
        def body(x: Array, layer_and_index: tuple[nnx.State, Array]) -> tuple[Array, LayerCache]:
            layer, index = layer_and_index
            x = policies.named(constrain(x, "pack", "token", None), policies.RESIDUAL)
            x, cache = nnx.merge(graph, layer)(x, rope, segments_bt)
            x = _add_deepstack(x, deepstack_jbtd, index)
            if not keep_cache:
                return x, None
            return x, jax.tree.map(lambda a: zigzag.to_natural(a, a.ndim - 2), cache)

        x_btd, cache = jax.lax.scan(body, x_btd, (layers, jnp.arange(self.depth)))
        return zigzag.to_natural(self.norm(x_btd)), cache

    def unstack(self) -> tuple[nnx.State, ...]:
        """The parameters of each layer, with kernels in the compute dtype.

        For decoding, whose main cost is to read every parameter once per token. A scan would first
        copy each layer out of the stack (XLA:CPU), cast it, and copy the caches in and out.
        """
        layers = nnx.state(self.layers)

        def layer_parameter(stacked: Array, index: int) -> Array:
            # Kernels are used in the compute dtype anyway. Norms are computed in float32.
            return stacked[index].astype(self.dtype) if stacked.ndim > 2 else stacked[index]

        return tuple(
            jax.tree.map(lambda a, i=index: layer_parameter(a, i), layers)
            for index in range(self.depth)
        )

    def decode(
        self,
        x_btd: Float[Array, "b t d"],
        rope: Rope,
        layers: Sequence[nnx.State],
        caches: Sequence[Cache],
        lengths_b: Int[Array, " b"],
    ) -> tuple[Float[Array, "b t d"], tuple[Cache, ...]]:
        """Runs T new text tokens per sequence; their entries are written at `lengths_b`.

        The layers are unrolled, since only separate cache arrays are updated in place.
        """
        graph, _ = nnx.split(self.layers)
        new_caches = []
        for layer, cache in zip(layers, caches, strict=True):
            x_btd, cache = nnx.merge(graph, layer).decode(x_btd, rope, cache, lengths_b)
            new_caches.append(cache)
        return self.norm(x_btd), tuple(new_caches)


def _rms_norm(spec: TextSpec, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return rms_norm(spec.width, "embed", spec.norm_eps, dtype, rngs)


def _add_deepstack(x_btd: Array, deepstack_jbtd: Array, layer: Array) -> Array:
    """Adds the features of tap `layer`; layers without a tap add nothing."""
    taps = len(deepstack_jbtd)
    if not taps:
        return x_btd
    added = jax.lax.dynamic_index_in_dim(
        deepstack_jbtd, jnp.minimum(layer, taps - 1), keepdims=False
    )
    return x_btd + jnp.where(layer < taps, added, 0)
