"""Benchmark cases of latent decoding at the released sizes: 32 heads, entries of 896 + 128."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from ivx.kernels.case import KernelCase

_HEADS, _RANK, _WIDTH, _SCALE = 32, 896, 1024, 1 / 16
_ROWS, _CAPACITY = 8, 32768


def cases(chip: str) -> list[KernelCase]:
    """Eight sequences of 32K tokens: bfloat16, one-byte, paged, and several tokens per step."""
    bf16, int8, fp8 = jnp.bfloat16, jnp.int8, jnp.float8_e4m3fn
    # Decoding is bandwidth-bound, so both cores of a v5p must issue requests.
    make = functools.partial(
        _case,
        splits=2 if chip == "v5p" else 1,
        multiplied=fp8 if chip == "tpu7x" else int8,
    )
    return [
        make("bf16", bf16, target={"of_hbm": 0.75}),
        make("int8", int8, target={"of_hbm": 1.1} if chip == "v6e" else {}),
        make("fp8", fp8),
        make("bf16-pages128", bf16, page=128),
        make("int8-pages256", int8, page=256),
        make("bf16-tokens8", bf16, count=8),
    ]


def _case(
    name: str,
    dtype: DTypeLike,
    splits: int,
    multiplied: DTypeLike,
    count: int = 1,
    page: int | None = None,
    target: Mapping[str, float] | None = None,
) -> KernelCase:
    from ivx.kernels.latent_decode.tpu import BLOCK

    size = jnp.dtype(dtype).itemsize
    entry_bytes = _WIDTH * size + (4 if size == 1 else 0)
    flops = 2 * _HEADS * count * (_WIDTH + _RANK)
    shape = jax.ShapeDtypeStruct
    pages = _ROWS * _CAPACITY // page if page else None
    arguments = {
        "q_btne": shape((_ROWS, count, _HEADS, _WIDTH), jnp.bfloat16),
        "lengths_b": shape((_ROWS,), jnp.int32),
        "entries": shape((pages, page, _WIDTH) if page else (_ROWS, _CAPACITY, _WIDTH), dtype),
    }
    if size == 1:
        scales = (pages, 1, page) if page else (_ROWS, 1, _CAPACITY)
        arguments["scales"] = shape(scales, jnp.float32)
    if page:
        arguments["table"] = shape((_ROWS, _CAPACITY // page), jnp.int32)
    return KernelCase(
        name=f"latent_decode-{name}-rows{_ROWS}-{_CAPACITY}",
        op="latent_decode",
        build=functools.partial(_build, tuple(arguments), splits, multiplied),
        arguments=tuple(arguments.values()),
        flops=float(flops * _ROWS * _CAPACITY),
        hbm_bytes=float(entry_bytes * _ROWS * _CAPACITY),
        per_block=f"{BLOCK} latents x {_HEADS * count} queries",
        block_flops=float(flops * BLOCK),
        block_bytes=float(entry_bytes * BLOCK),
        wanted=target or {},
    )


def _build(names: tuple[str, ...], splits: int, multiplied: DTypeLike) -> Callable:
    from ivx.kernels.latent_decode import tpu
    from ivx.kernels.latent_decode.attention_output import AttentionOutput
    from ivx.kernels.latent_decode.cache import LatentCache, PagedCache

    def attend(*arrays: Array) -> AttentionOutput:
        named = dict(zip(names, arrays, strict=True))
        entries, scales = named["entries"], named.get("scales")
        if "table" in named:
            cache = PagedCache(entries, named["table"], scales)
        else:
            cache = LatentCache(entries, scales)
        arguments = named["q_btne"], cache, named["lengths_b"], _RANK, _SCALE
        return tpu.attend(*arguments, splits=splits, multiplied=multiplied)

    return attend
