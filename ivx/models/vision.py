"""The vision tower and mergers of Qwen3-VL: patches to visual tokens and DeepStack features.

    x = patches W + b + table(row, column)     table interpolated bilinearly to the image's grid
    x += attention(LN(x));  x += mlp(LN(x))    attention within a slice, rope by row and column
    tokens   = merge(x)                        four patches (2 x 2) become one token
    features = merge_i(x after block taps[i])

HF names: visual.{patch_embed.proj, pos_embed, blocks.{i}, merger, deepstack_merger_list.{i}}.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from ivx.kernels.vision_attention import vision_attention
from ivx.models.layers import layer_norm, linear, stack
from ivx.models.rope import Rope, rotate, vision_rope
from ivx.models.spec import VisionSpec
from ivx.parallel import remat as policies
from ivx.parallel.sharding import AXES, constrain

_NORM_EPS = 1e-6
_MERGED = 4
_PIXELS = 3 * 2 * 16 * 16
# Logical axes of kernels: the sharded one is a multiple of the patch width.
_INTO, _OUT_OF = ("patch_width", None), (None, "patch_width")


class VisualTokens(NamedTuple):
    """Merged tokens [B, G, D] and DeepStack features [taps, B, G, D], D of the text model."""

    tokens: Array
    features: Array


class VisionBlock(nnx.Module):
    """One block of the tower."""

    def __init__(self, spec: VisionSpec, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.heads = spec.heads
        out_scale = 0.5 / spec.depth
        dense = {"bias": True, "rngs": rngs, "dtype": dtype}
        self.norm1 = layer_norm(spec.width, _NORM_EPS, dtype, rngs)
        self.qkv = linear(spec.width, 3 * spec.width, _INTO, **dense)
        self.proj = linear(spec.width, spec.width, _INTO, scale=out_scale, **dense)
        self.norm2 = layer_norm(spec.width, _NORM_EPS, dtype, rngs)
        self.linear_fc1 = linear(spec.width, spec.mlp, _INTO, **dense)
        self.linear_fc2 = linear(spec.mlp, spec.width, _OUT_OF, scale=out_scale, **dense)

    def __call__(
        self,
        x_bxd: Float[Array, "b x d"],
        rope: Rope,
        slices_bx: Int[Array, "b x"],
        slice_block: int,
    ) -> Float[Array, "b x d"]:
        qkv = einops.rearrange(
            self.qkv(self.norm1(x_bxd)), "b x (c n h) -> c b x n h", c=3, n=self.heads
        )
        out = vision_attention(
            rotate(qkv[0], rope), rotate(qkv[1], rope), qkv[2], slices_bx, slice_block
        )
        x_bxd += self.proj(einops.rearrange(out, "b x n h -> b x (n h)"))
        return x_bxd + self.linear_fc2(
            jax.nn.gelu(self.linear_fc1(self.norm2(x_bxd)), approximate=True)
        )


class Merger(nnx.Module):
    """Merges four patches into one token of the text model; exact GELU.

    The main merger normalizes before the patches are joined, the DeepStack mergers (`norm_joined`)
    afterwards.
    """

    def __init__(
        self, width: int, out: int, norm_joined: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.norm_joined = norm_joined
        joined = _MERGED * width
        self.norm = layer_norm(joined if norm_joined else width, _NORM_EPS, dtype, rngs)
        dense = {"bias": True, "rngs": rngs, "dtype": dtype}
        self.linear_fc1 = linear(joined, joined, _INTO, **dense)
        self.linear_fc2 = linear(joined, out, _INTO, **dense)

    def __call__(self, x_bxd: Float[Array, "b x d"]) -> Float[Array, "b g e"]:
        if not self.norm_joined:
            x_bxd = self.norm(x_bxd)
        joined = einops.rearrange(x_bxd, "b (g m) d -> b g (m d)", m=_MERGED)
        if self.norm_joined:
            joined = self.norm(joined)
        return self.linear_fc2(jax.nn.gelu(self.linear_fc1(joined), approximate=False))


class VisionTower(nnx.Module):
    """Patch embedding, blocks and mergers."""

    def __init__(
        self, spec: VisionSpec, out: int, dtype: DTypeLike, remat: str, rngs: nnx.Rngs
    ) -> None:
        self.spec, self.dtype, self.remat = spec, dtype, remat
        self.patch_embed = linear(_PIXELS, spec.width, _OUT_OF, bias=True, rngs=rngs, dtype=dtype)
        self.pos_embed = nnx.Embed(
            spec.table_side**2,
            spec.width,
            dtype=dtype,
            embedding_init=nnx.initializers.normal(0.02),
            embedding_metadata={AXES: _OUT_OF},
            rngs=rngs,
        )
        self.blocks = stack(VisionBlock, spec.depth, spec, dtype, rngs=rngs)
        self.merger = Merger(spec.width, out, False, dtype, rngs)
        self.deepstack_mergers = stack(
            Merger, len(spec.taps), spec.width, out, True, dtype, rngs=rngs
        )

    def __call__(
        self,
        patches_bxp: UInt8[Array, "b x p"],
        slices_bx: Int[Array, "b x"],
        grid_bx4: Int[Array, "b x 4"],
        slice_block: int,
    ) -> VisualTokens:
        """Encodes all patches of a batch.

        Args:
          patches_bxp: pixels as bytes; normalized here to [-1, 1].
          slices_bx: slice id of each patch, 0 for padding.
          grid_bx4: (row, column, rows, columns) of each patch.
          slice_block: rows that no slice crosses.
        """
        pixels = (patches_bxp.astype(jnp.float32) / 127.5 - 1).astype(self.dtype)
        x_bxd = self.patch_embed(pixels) + self._positions(grid_bx4)
        rope = vision_rope(grid_bx4, self.spec.width // self.spec.heads)
        graph, blocks = nnx.split(self.blocks)

        @policies.remat(self.remat)
        def body(
            carry: tuple[Array, Array], block_and_index: tuple[nnx.State, Array]
        ) -> tuple[tuple[Array, Array], None]:
            block, index = block_and_index
            x, taps = carry
            x = policies.named(constrain(x, "pack", "slice_block", None), policies.RESIDUAL)
            x = nnx.merge(graph, block)(x, rope, slices_bx, slice_block)
            # Row i holds the output of block taps[i]. Other blocks write to an unused last row.
            hit = tapped == index
            row = jnp.where(hit.any(), jnp.argmax(hit), len(hit))
            return (x, jax.lax.dynamic_update_index_in_dim(taps, x, row, 0)), None

        tapped = jnp.array(self.spec.taps)
        taps = jnp.zeros((1 + len(self.spec.taps), *x_bxd.shape), x_bxd.dtype)
        (x_bxd, taps), _ = jax.lax.scan(body, (x_bxd, taps), (blocks, jnp.arange(self.spec.depth)))
        merger_graph, mergers = nnx.split(self.deepstack_mergers)
        # Mergers are recomputed, too: their inputs are four patches wide, in float32 in the norms.
        remat = policies.remat(self.remat)
        merge = remat(lambda state, x: nnx.merge(merger_graph, state)(x))
        features = jax.lax.map(lambda pair: merge(*pair), (mergers, taps[:-1]))
        main_graph, main = nnx.split(self.merger)
        tokens = remat(lambda state, x: nnx.merge(main_graph, state)(x))(main, x_bxd)
        return VisualTokens(tokens, features)

    def _positions(self, grid_bx4: Int[Array, "b x 4"]) -> Float[Array, "b x d"]:
        """The learned table, interpolated bilinearly with corners aligned to those of the image."""
        side = self.spec.table_side
        position_bx2 = grid_bx4[..., :2].astype(jnp.float32)
        steps = jnp.maximum(grid_bx4[..., 2:] - 1, 1).astype(jnp.float32)
        position_bx2 = position_bx2 * (side - 1) / steps
        low = jnp.floor(position_bx2).astype(jnp.int32)
        high = jnp.minimum(low + 1, side - 1)
        fraction = position_bx2 - low
        total = 0.0
        for row, row_weight in (
            (low[..., 0], 1 - fraction[..., 0]),
            (high[..., 0], fraction[..., 0]),
        ):
            for column, weight in (
                (low[..., 1], 1 - fraction[..., 1]),
                (high[..., 1], fraction[..., 1]),
            ):
                weight = (row_weight * weight)[..., None].astype(self.dtype)
                total += weight * self.pos_embed(row * side + column)
        return total
