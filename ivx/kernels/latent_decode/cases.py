"""Decoding at the sizes of the release, as it is compiled ahead of time: 32 heads, 896 + 128."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ivx.kernels.case import KernelCase

_HEADS, _RANK, _WIDTH, _SCALE = 32, 896, 1024, 1 / 16
_ROWS, _ROOM = 8, 32768


def cases(chip: str) -> list[KernelCase]:
    """A batch of eight sequences of 32K tokens: plain, of one byte, in pages, several tokens."""
    bf16, int8, fp8 = jnp.bfloat16, jnp.int8, jnp.float8_e4m3fn
    # Decoding needs bandwidth: both cores of a v5p have to ask for it.
    make = functools.partial(
        _case,
        splits=2 if chip == "v5p" else 1,
        multiplied=fp8 if chip == "tpu7x" else int8,
    )
    return [
        make("bf16", bf16, wanted={"of_hbm": 0.75}),
        make("int8", int8, wanted={"of_hbm": 1.1} if chip == "v6e" else {}),
        make("fp8", fp8),
        make("bf16-pages128", bf16, page=128),
        make("int8-pages256", int8, page=256),
        make("bf16-tokens8", bf16, count=8),
    ]


def _case(
    name: str,
    dtype: jnp.dtype,
    splits: int,
    multiplied: jnp.dtype,
    count: int = 1,
    page: int | None = None,
    **more,
) -> KernelCase:
    from ivx.kernels.latent_decode.tpu import BLOCK

    size = jnp.dtype(dtype).itemsize
    one = _WIDTH * size + (4 if size == 1 else 0)
    flops = 2 * _HEADS * count * (_WIDTH + _RANK)
    shape = jax.ShapeDtypeStruct
    pages = _ROWS * _ROOM // page if page else None
    arguments = {
        "q_btne": shape((_ROWS, count, _HEADS, _WIDTH), jnp.bfloat16),
        "lengths_b": shape((_ROWS,), jnp.int32),
        "entries": shape((pages, page, _WIDTH) if page else (_ROWS, _ROOM, _WIDTH), dtype),
    }
    if size == 1:
        lines = (pages, 1, page) if page else (_ROWS, 1, _ROOM)
        arguments["scales"] = shape(lines, jnp.float32)
    if page:
        arguments["table"] = shape((_ROWS, _ROOM // page), jnp.int32)
    return KernelCase(
        name=f"latent_decode-{name}-rows{_ROWS}-{_ROOM}",
        op="latent_decode",
        build=functools.partial(_build, tuple(arguments), splits, multiplied),
        arguments=tuple(arguments.values()),
        flops=float(flops * _ROWS * _ROOM),
        hbm_bytes=float(one * _ROWS * _ROOM),
        per_block=f"{BLOCK} latents x {_HEADS * count} queries",
        block_flops=float(flops * BLOCK),
        block_bytes=float(one * BLOCK),
        **more,
    )


def _build(names: tuple[str, ...], splits: int, multiplied: jnp.dtype) -> Callable:
    from ivx.kernels.latent_decode import tpu
    from ivx.kernels.latent_decode.cache import LatentCache, PagedCache

    def attend(*arrays):
        given = dict(zip(names, arrays, strict=True))
        entries, scales = given["entries"], given.get("scales")
        if "table" in given:
            cache = PagedCache(entries, given["table"], scales)
        else:
            cache = LatentCache(entries, scales)
        arguments = given["q_btne"], cache, given["lengths_b"], _RANK, _SCALE
        return tpu.attend(*arguments, splits=splits, multiplied=multiplied)

    return attend
