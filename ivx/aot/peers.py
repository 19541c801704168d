"""What other libraries have for the widths of M2LA, compiled beside ours: JAX's splash attention.

Keys and queries of 256 numbers, values of 128, one causal sample, tiles of 1024 x 1024. The flash
kernels of tokamax are compiled too where tokamax is installed.
"""

import importlib.util

import jax
import jax.numpy as jnp

from ivx.kernels.case import KernelCase

HEADS, TOKENS, TILE, INNER = 8, 8192, 1024, 512
_KEY, _VALUE = 256, 128
# Scores and values forward; scores again, and gradients of weights, values, queries and keys.
_FORWARD, _BACKWARD = _KEY + _VALUE, 3 * _KEY + 2 * _VALUE


def cases(chip: str) -> list[KernelCase]:
    """Forward and backward of each library."""
    del chip
    found = [
        _case("jax_splash-fwd", lambda: _jax_splash, _FORWARD, 1),
        _case(
            "jax_splash-bwd",
            lambda: _backward(_jax_splash),
            _BACKWARD,
            2,
            kernels=("splash_mha_dkv_segmented_no_residuals",),
        ),
    ]
    if importlib.util.find_spec("tokamax"):
        found.append(_case("tokamax_splash-fwd", lambda: _tokamax_splash, _FORWARD, 1))
    return found


def _case(name: str, build, widths: int, copies: int, **more) -> KernelCase:
    """`widths`: numbers multiplied for a pair; `copies`: how often arrays pass through HBM."""
    tile = 2 * TILE**2 * widths
    tiles = (TOKENS // TILE) * (TOKENS // TILE + 1) // 2
    shape = jax.ShapeDtypeStruct
    return KernelCase(
        name=f"{name}-bf16-{HEADS}x{TOKENS}",
        op=name.split("-")[0],
        build=build,
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
        **more,
    )


def _backward(attend):
    def run(q, k, v, segments):
        loss = lambda *a: attend(*a, segments).astype(jnp.float32).sum()  # noqa: E731
        return jax.grad(loss, (0, 1, 2))(q, k, v)

    return run


def _jax_splash(q, k, v, segments):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    mask = masks.MultiHeadMask([masks.CausalMask((TOKENS, TOKENS))] * HEADS)
    blocks = splash.BlockSizes(
        block_q=TILE,
        block_kv=TILE,
        block_kv_compute=INNER,
        block_q_dkv=TILE,
        block_kv_dkv=TILE,
        block_kv_dkv_compute=INNER,
        use_fused_bwd_kernel=True,
    )
    made = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=blocks)
    return made(q, k, v, splash.SegmentIds(segments, segments))


def _tokamax_splash(q, k, v, segments):
    from tokamax._src.ops.experimental.tpu.splash_attention import base
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as splash
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as masks

    config = splash.SplashConfig(
        block_q=TILE,
        block_kv=TILE,
        block_kv_compute=INNER,
        block_q_dkv=TILE,
        block_kv_dkv=TILE,
        block_kv_dkv_compute=INNER,
    )
    mask = masks.CausalMask((TOKENS, TOKENS))
    made = splash.make_splash_mha(mask, config=config, q_seq_shards=1)
    return made(q, k, v, base.SegmentIds(segments, segments))
