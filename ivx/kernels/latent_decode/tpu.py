"""Absorbed decoding on a TPU: one Pallas kernel that streams cache blocks through VMEM.

A program processes a few query tokens of one sequence. The rows (m) of its products are their
heads. It visits only the visible blocks: pages beyond the length are neither fetched nor read. Two
blocks are in use while a third is prefetched:

    block j + 2   HBM -> VMEM, also across the boundary to the next program's first block
    block j + 1   scores = q . entries                         MXU
    block j       weights = softmax of its scores              VPU, overlaps with the MXU
                  context += weights . latents                 MXU

Entries are contiguous or paged through a table; a block of a paged cache takes several copies.

Grid: (splits, B * query blocks). The second axis is sequential, since programs prefetch for each
other. `splits` divides the blocks of every sequence between the cores of a two-core device.
Blocks: queries [m, E] and context [m, R] of a program; entries stay in HBM and are copied by hand.
VMEM with E = 1024, N = 32, T = 1, bfloat16: three blocks of 2048 entries, 12 MiB, plus 0.5 MiB.
FLOPs per 1024 entries: 2 * 32 * 1024 * (E + R) = 126 M for 2 MiB of HBM, below every chip's ridge.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.latent_decode import split_precision
from ivx.kernels.latent_decode.attention_output import AttentionOutput, merge
from ivx.kernels.latent_decode.blocks import SLOTS, Scalar
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache, capacity
from ivx.kernels.latent_decode.program import Plan, program

# Entries per block: enough to hide the overhead of a step; three blocks must fit in VMEM.
BLOCK = 2048
# Maximum rows of a program; more tokens take several programs.
ROWS = 256
# TPU tile of the last axis, and the minimum page size.
LANES = 128
# A multiple of the TPU row tile of every dtype.
_SUBLANES = 32
_VMEM = 48 << 20


def constraint(cache: LatentCache | PagedCache, rank: int) -> str:
    """The constraint of the kernel that these shapes violate, or an empty string."""
    paged = isinstance(cache, PagedCache)
    run, width = (cache.pages if paged else cache.entries).shape[1:]
    if width % LANES or rank % LANES:
        return f"R = {rank} and R + P = {width} must be multiples of {LANES}"
    if run % LANES or (paged and BLOCK % run):
        rule = f"the page size must divide {BLOCK} and" if paged else "the cache capacity must"
        return f"{rule} be a multiple of {LANES} entries, got {run}"
    return ""


def attend(
    q_btne: Float[Array, "b t n e"],
    cache: LatentCache | PagedCache,
    lengths_b: Int[Array, " b"],
    rank: int,
    scale: float,
    block: int = BLOCK,
    splits: int | None = None,
    multiplied: DTypeLike | None = None,
    interpret: choice.Interpret = False,
) -> AttentionOutput:
    """`xla.attend` for shapes that satisfy `constraint`.

    Args:
      q_btne: absorbed queries, bfloat16 or float32.
      cache: cache entries.
      lengths_b: entries before the first query's own entry.
      rank: R.
      scale: scale of the scores.
      block: entries per block, a multiple of the page size.
      splits: parts into which every sequence is split; default: the cores of a device.
      multiplied: one-byte dtype that the matrix units multiply; default: the device's. Entries of
        another dtype are converted.
      interpret: as in `pallas_call`.
    """
    rows, count, heads, width = q_btne.shape
    paged, cache_size = isinstance(cache, PagedCache), capacity(cache)
    page = cache.pages.shape[1] if paged else LANES
    block = min(block, cache_size)
    tokens = min(count, max(1, ROWS // heads))
    splits = splits or _core_count()
    plan = Plan(rank, scale, count, tokens, -(-count // tokens), splits, cache_size)
    q_bime = _by_program(q_btne, plan)
    program_rows = q_bime.shape[2]

    scalars = {"lengths": lengths_b.astype(jnp.int32)}
    if paged:
        scalars["table"] = cache.table.astype(jnp.int32)

    def program_index(split: Scalar, index: Scalar, *_: Any) -> tuple:
        # `//` and `%` would query the local device, which may not exist.
        return lax.div(index, plan.programs), lax.rem(index, plan.programs), 0, 0

    inputs, specs = {}, []

    def add_input(name: str, array: Array, spec: pl.BlockSpec) -> None:
        inputs[name] = array
        specs.append(spec)

    entries = cache.pages if paged else cache.entries
    # float32 queries need more precision than the split terms keep.
    multiplied = jnp.dtype(_multiplied() if multiplied is None else multiplied)
    if entries.dtype == multiplied and q_btne.dtype == jnp.bfloat16:
        q_bime, scales_bim = _split_queries(q_bime, entries.dtype)
        add_input("queries", q_bime, pl.BlockSpec((1, 1, *q_bime.shape[2:]), program_index))
        scales_spec = pl.BlockSpec((1, 1, program_rows, LANES), program_index)
        add_input("query_scales", _broadcast_lanes(scales_bim), scales_spec)
    else:
        add_input("queries", q_bime, pl.BlockSpec((1, 1, program_rows, width), program_index))
    if tokens > 1:
        token_m = jnp.arange(program_rows, dtype=jnp.int32) // heads
        token_spec = pl.BlockSpec((program_rows, LANES), lambda s, i, *_: (0, 0))
        add_input("token", _broadcast_lanes(token_m), token_spec)
    add_input("entries", entries, pl.BlockSpec(memory_space=pl.ANY))
    if cache.scales is not None:
        add_input("scales", cache.scales, pl.BlockSpec(memory_space=pl.ANY))

    results = {
        "context": jax.ShapeDtypeStruct(
            (splits, rows, plan.programs, program_rows, rank),
            q_btne.dtype if splits == 1 else jnp.float32,
        ),
        "lse": jax.ShapeDtypeStruct(
            (splits, rows, plan.programs, program_rows, LANES), jnp.float32
        ),
    }
    scratch = {"entry_slots": pltpu.VMEM((SLOTS, block, width), entries.dtype)}
    if cache.scales is not None:
        scratch["scale_slots"] = pltpu.VMEM((SLOTS, 1, block), jnp.float32)
    scratch |= {
        "semaphores": pltpu.SemaphoreType.DMA((SLOTS,)),
        "slot": pltpu.SMEM((1,), jnp.int32),
        "scores": pltpu.VMEM((program_rows, block), jnp.float32),
        "top": pltpu.VMEM((program_rows, LANES), jnp.float32),
        "total": pltpu.VMEM((program_rows, LANES), jnp.float32),
        "sum": pltpu.VMEM((program_rows, rank), jnp.float32),
    }

    def result_index(split: Scalar, index: Scalar, *_: Any) -> tuple:
        return split, *program_index(split, index)

    context, lse = pl.pallas_call(
        functools.partial(
            program, names=(*scalars, *inputs, *results, *scratch), plan=plan, page=page
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(splits, rows * plan.programs),
            in_specs=specs,
            out_specs=[
                pl.BlockSpec((1, 1, 1, *result.shape[3:]), result_index)
                for result in results.values()
            ],
            scratch_shapes=list(scratch.values()),
        ),
        out_shape=list(results.values()),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=_VMEM
        ),
        name="latent_decode",
        interpret=interpret,
    )(*scalars.values(), *inputs.values())
    parts = AttentionOutput(
        _by_token(context, plan, heads), _by_token(lse[..., :1], plan, heads)[..., 0]
    )
    if splits == 1:
        return AttentionOutput(*(part[0] for part in parts))
    merged = merge(parts)
    return AttentionOutput(merged.context.astype(q_btne.dtype), merged.lse)


def _by_program(q_btne: Array, plan: Plan) -> Array:
    """Queries by program, [B, programs, m, E]; m is tokens x heads, padded to full tiles."""
    rows, count, heads, width = q_btne.shape
    padding = plan.programs * plan.tokens - count
    q = jnp.pad(q_btne, ((0, 0), (0, padding), (0, 0), (0, 0)))
    q = q.reshape(rows, plan.programs, plan.tokens * heads, width)
    return jnp.pad(q, ((0, 0), (0, 0), (0, -q.shape[2] % _SUBLANES), (0, 0)))


def _by_token(by_program: Array, plan: Plan, heads: int) -> Array:
    """[splits, B, programs, m, n] -> [splits, B, T, N, n]."""
    splits, rows, _, _, last = by_program.shape
    unpadded = by_program[:, :, :, : plan.tokens * heads]
    return unpadded.reshape(splits, rows, -1, heads, last)[:, :, : plan.count]


def _split_queries(q_bime: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """Queries split into terms [B, programs, 2 m, E], and the scale of each row [.., m]."""
    fmt, q = split_precision.FORMATS[jnp.dtype(dtype)], q_bime.astype(jnp.float32)
    scales = jnp.abs(q).max(-1, keepdims=True) / fmt.max_abs
    q = q / jnp.where(scales > 0, scales, 1)
    return split_precision.split(q, fmt, fmt.query_terms), scales[..., 0]


def _broadcast_lanes(array: Array) -> Array:
    """Broadcasts along a new last axis of LANES."""
    return jnp.broadcast_to(array[..., None], (*array.shape, LANES))


def _core_count() -> int:
    """Cores per device; the two cores of v4 and v5p share its memory."""
    device = jax.devices()[0]
    return getattr(device, "num_cores", 1) if device.platform == "tpu" else 1


def _multiplied() -> jnp.dtype:
    """The one-byte dtype of the matrix units: int8 up to v6e, fp8 from tpu7x on."""
    return jnp.dtype(jnp.float8_e4m3fn if "7" in jax.devices()[0].device_kind else jnp.int8)
