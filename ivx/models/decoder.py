"""The text decoder: pre-norm attention and SwiGLU, stacked and scanned, with DeepStack injection.

    x += attention(rms(x));  x += down(silu(gate(rms(x))) * up(rms(x)))

After each of the first layers, visual tokens receive the features that one tap of the vision tower
gave them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ivx.kernels.latent_decode.cache import LatentCache, PagedCache
from ivx.models.exact_latent_attention import ExactLatentAttention
from ivx.models.grouped_attention import GroupedAttention, GroupedCache
from ivx.models.latent_attention import LatentAttention
from ivx.models.linear import linear
from ivx.models.rope import Rope
from ivx.models.spec import TextSpec
from ivx.parallel import remat as policies
from ivx.parallel import zigzag
from ivx.parallel.activations import constrain
from ivx.parallel.rules import AXES

# What a layer keeps of the past, arrays [B, ..., S, n], or pages of them.
Cache = LatentCache | PagedCache | GroupedCache

ATTENTION = {
    "m2la": LatentAttention,
    "m2la_exact": ExactLatentAttention,
    "gqa": GroupedAttention,
}


def rms_norm(spec: TextSpec, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """RMS norm over D; statistics in float32."""
    return nnx.RMSNorm(
        spec.width, epsilon=spec.norm_eps, dtype=dtype, scale_metadata={AXES: ("embed",)}, rngs=rngs
    )


class FeedForward(nnx.Module):
    """SwiGLU. HF names: mlp.{gate,up,down}_proj."""

    def __init__(self, spec: TextSpec, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.gate_proj = linear(spec.width, spec.mlp, ("embed", "mlp"), rngs=rngs, dtype=dtype)
        self.up_proj = linear(spec.width, spec.mlp, ("embed", "mlp"), rngs=rngs, dtype=dtype)
        self.down_proj = linear(
            spec.mlp, spec.width, ("mlp", "embed"), scale=0.5 / spec.depth, rngs=rngs, dtype=dtype
        )

    def __call__(self, x_btd: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x_btd)) * self.up_proj(x_btd))


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, spec: TextSpec, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.input_layernorm = rms_norm(spec, dtype, rngs)
        self.self_attn = ATTENTION[spec.attention](spec, dtype, rngs)
        self.post_attention_layernorm = rms_norm(spec, dtype, rngs)
        self.mlp = FeedForward(spec, dtype, rngs)

    def __call__(self, x_btd: Array, rope: Rope, segments_bt: Array) -> tuple[Array, Cache]:
        attended, kept = self.self_attn(self.input_layernorm(x_btd), rope, segments_bt)
        return self._feed_forward(x_btd + attended), kept

    def decode(
        self, x_btd: Array, rope: Rope, cache: Cache, lengths_b: Array
    ) -> tuple[Array, Cache]:
        attended, cache = self.self_attn.decode(self.input_layernorm(x_btd), rope, cache, lengths_b)
        return self._feed_forward(x_btd + attended), cache

    def _feed_forward(self, x_btd: Array) -> Array:
        return x_btd + self.mlp(self.post_attention_layernorm(x_btd))


def stack(block: type, depth: int, *args, rngs: nnx.Rngs) -> nnx.Module:
    """`depth` blocks as one, parameters on a leading axis; each is initialised by its own key."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs: nnx.Rngs):
        return block(*args, rngs)

    return create(rngs)


class Decoder(nnx.Module):
    """All layers and the final norm. HF names: layers.{i}, norm."""

    def __init__(self, spec: TextSpec, dtype: jnp.dtype, remat: str, rngs: nnx.Rngs):
        self.depth, self.remat, self.dtype = spec.depth, remat, dtype
        self.layers = stack(Block, spec.depth, spec, dtype, rngs=rngs)
        self.norm = rms_norm(spec, dtype, rngs)

    def __call__(
        self,
        x_btd: Float[Array, "b t d"],
        rope: Rope,
        segments_bt: Int[Array, "b t"],
        deepstack_jbtd: Float[Array, "j b t d"],
        keep_cache: bool = False,
    ) -> tuple[Float[Array, "b t d"], Cache | None]:
        """Runs a whole sequence.

        Args:
          x_btd: embedded tokens.
          rope: of the heads.
          segments_bt: sample of each token, 0 for padding.
          deepstack_jbtd: what is added after each of the first layers, 0 where there is text.
          keep_cache: also return the caches, stacked on a new axis 0.
        """
        graph, layers = nnx.split(self.layers)
        # From here to the end a pack may lie over several devices, in an order of its own.
        x_btd, segments_bt = zigzag.enter(x_btd), zigzag.enter(segments_bt)
        rope = Rope(*(zigzag.enter(a) for a in rope))
        deepstack_jbtd = jax.lax.map(zigzag.enter, deepstack_jbtd)

        @policies.remat(self.remat)
        def body(x, layer_and_number):
            layer, number = layer_and_number
            x = policies.named(constrain(x, "pack", "token", None), policies.RESIDUAL)
            x, kept = nnx.merge(graph, layer)(x, rope, segments_bt)
            x = _inject(x, deepstack_jbtd, number)
            return x, jax.tree.map(
                lambda a: zigzag.leave(a, a.ndim - 2), kept
            ) if keep_cache else None

        x_btd, cache = jax.lax.scan(body, x_btd, (layers, jnp.arange(self.depth)))
        return zigzag.leave(self.norm(x_btd)), cache

    def unstack(self) -> tuple[nnx.State, ...]:
        """The parameters of each layer by themselves, kernels in the dtype of computation.

        For decoding, which reads every parameter once a token and does little else: a scan would
        first copy each layer out of the stack (XLA:CPU), cast it, and copy the caches in and out.
        """
        layers = nnx.state(self.layers)

        def part(stacked: Array, number: int) -> Array:
            # Kernels are cast where they are used; norms are computed in float32.
            return stacked[number].astype(self.dtype) if stacked.ndim > 2 else stacked[number]

        return tuple(
            jax.tree.map(lambda a, n=number: part(a, n), layers) for number in range(self.depth)
        )

    def decode(
        self,
        x_btd: Float[Array, "b t d"],
        rope: Rope,
        layers: Sequence[nnx.State],
        caches: Sequence[Cache],
        lengths_b: Int[Array, " b"],
    ) -> tuple[Float[Array, "b t d"], tuple[Cache, ...]]:
        """Runs T new text tokens a sequence; returns the caches with them, from `lengths_b` on.

        The layers are not scanned: caches that are arrays of their own are written in place.
        """
        graph, _ = nnx.split(self.layers)
        kept = []
        for layer, cache in zip(layers, caches, strict=True):
            x_btd, cache = nnx.merge(graph, layer).decode(x_btd, rope, cache, lengths_b)
            kept.append(cache)
        return self.norm(x_btd), tuple(kept)


def _inject(x_btd: Array, deepstack_jbtd: Array, layer: Array) -> Array:
    """Adds what the tap of a layer gives; later layers add nothing."""
    taps = len(deepstack_jbtd)
    if not taps:
        return x_btd
    added = jax.lax.dynamic_index_in_dim(
        deepstack_jbtd, jnp.minimum(layer, taps - 1), keepdims=False
    )
    return x_btd + jnp.where(layer < taps, added, 0)
