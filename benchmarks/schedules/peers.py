"""Flash attention of other libraries at the widths of M2LA: splash attention of JAX and tokamax.

Keys and queries have width 256, values 128; one causal sample, tiles of 1024 x 1024. There are
three backward passes: JAX's fused kernel, which writes the gradient of the queries once per tile of
keys and leaves their sum to XLA; JAX's two kernels; and tokamax's fused kernel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ivx.errors import UserError
from ivx.kernels.case import KernelCase

HEADS, TOKENS, TILE, INNER = 8, 8192, 1024, 512
_KEY, _VALUE = 256, 128
# Forward scores and values; backward scores again and gradients of weights, values, Q and K.
_FORWARD, _BACKWARD = _KEY + _VALUE, 3 * _KEY + 2 * _VALUE
_D_KEYS, _D_QUERIES = (f"splash_mha_{name}_segmented_no_residuals" for name in ("dkv", "dq"))


def cases(chip: str) -> list[KernelCase]:
    """Forward and backward of each library."""
    del chip
    fused, split = _jax_splash(fused=True), _jax_splash(fused=False)
    return [
        _case("jax_splash-fwd", fused, _FORWARD),
        _case("jax_splash-bwd", _backward(fused), _BACKWARD, _D_KEYS),
        _case("jax_splash-bwd-two", _backward(split), _BACKWARD, _D_KEYS, _D_QUERIES),
        _case("tokamax_splash-fwd", _tokamax_splash, _FORWARD),
        _case("tokamax_splash-bwd", _backward(_tokamax_splash), _BACKWARD, _D_KEYS),
    ]


def _case(name: str, attend: Callable, widths: int, *kernels: str) -> KernelCase:
    """A case.

    Args:
      name: without dtype and sizes.
      attend: the function to compile.
      widths: sum of the widths of all products.
      *kernels: of the backward pass.
    """
    tile, copies = 2 * TILE**2 * widths, 2 if kernels else 1
    tiles = (TOKENS // TILE) * (TOKENS // TILE + 1) // 2
    shape = jax.ShapeDtypeStruct
    return KernelCase(
        name=f"{name}-bf16-{HEADS}x{TOKENS}",
        op="dense_attention",
        build=lambda: attend,
        arguments=(
            shape((HEADS, TOKENS, _KEY), jnp.bfloat16),
            shape((HEADS, TOKENS, _KEY), jnp.bfloat16),
            shape((HEADS, TOKENS, _VALUE), jnp.bfloat16),
            shape((TOKENS,), jnp.int32),
        ),
        flops=HEADS * tiles * tile,
        hbm_bytes=copies * 2 * HEADS * TOKENS * 2 * (_KEY + _VALUE),
        per_block=f"{TILE} queries x {TILE} keys of a head",
        block_flops=tile,
        block_bytes=copies * 2 * TILE * (_KEY + _VALUE),
        kernels=kernels,
    )


# Block sizes, named alike by JAX and tokamax.
_BLOCKS = {
    "block_q": TILE,
    "block_kv": TILE,
    "block_kv_compute": INNER,
    "block_q_dkv": TILE,
    "block_kv_dkv": TILE,
    "block_kv_dkv_compute": INNER,
}


def _backward(attend: Callable) -> Callable:
    def run(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> tuple[jax.Array, ...]:
        loss = lambda *a: attend(*a, segments).astype(jnp.float32).sum()  # noqa: E731
        return jax.grad(loss, (0, 1, 2))(q, k, v)

    return run


def _jax_splash(fused: bool) -> Callable:
    def run(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import (
            splash_attention_kernel as splash,
        )
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

        mask = masks.MultiHeadMask([masks.CausalMask((TOKENS, TOKENS))] * HEADS)
        blocks = splash.BlockSizes(
            **_BLOCKS,
            block_q_dq=None if fused else TILE,
            block_kv_dq=None if fused else TILE,
            use_fused_bwd_kernel=fused,
        )
        attend = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=blocks)
        return attend(q, k, v, splash.SegmentIds(segments, segments))

    return run


def _tokamax_splash(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    try:
        from tokamax._src.ops.experimental.tpu.splash_attention import (
            base,
            splash_attention_kernel,
            splash_attention_mask,
        )
    except ModuleNotFoundError as error:
        raise UserError(
            "tokamax is not installed; `pip install 'ivx[peers]'` installs the version that works"
            " with this JAX"
        ) from error
    config = splash_attention_kernel.SplashConfig(**_BLOCKS)
    mask = splash_attention_mask.CausalMask((TOKENS, TOKENS))
    attend = splash_attention_kernel.make_splash_mha(mask, config=config, q_seq_shards=1)
    return attend(q, k, v, base.SegmentIds(segments, segments))
