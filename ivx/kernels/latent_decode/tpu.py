"""Absorbed decoding on TPU: blocks of the cache stream through VMEM, one Pallas kernel.

A program is a sequence and a few of its query tokens; the rows (m) of its products are their heads.
It visits the blocks of the cache that they see and no others: pages beyond the length are neither
fetched nor looked at. Two blocks are at work at a time and a third is on its way:

    block j + 2   HBM -> VMEM, also across the border to the next program's first block
    block j + 1   scores = q . entries                         MXU
    block j       weights = softmax of its scores              VPU, while the MXU is busy
                  context += weights . latents                 MXU

Entries come in rows, or by pages through a table: then one block is several copies.

Grid: (splits, B * query blocks), the second axis in order, since programs prefetch for one another.
`splits` cuts the blocks of every sequence for devices that are two cores.

VMEM at E = 1024, N = 32, T = 1, bfloat16: three blocks of 2048 entries, 12 MiB, and 0.5 MiB. FLOPs
of 1024 entries: 2 * 32 * 1024 * (E + R) = 126 M for 2 MiB of HBM, below the ridge of every chip.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from ivx.kernels.latent_decode import digits
from ivx.kernels.latent_decode.blocks import SLOTS
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache, capacity
from ivx.kernels.latent_decode.merge import Attended, merge
from ivx.kernels.latent_decode.program import Plan, program

# Entries of a block: many enough to hide what a step costs, few enough for three in VMEM.
BLOCK = 2048
# Rows of a program at most; more tokens than fit are several programs.
ROWS = 256
# The tile of the last axis, which is also the least page.
LANES = 128
# Whole tiles of rows of every dtype there is.
_SUBLANES = 32
_VMEM = 48 << 20


def constraint(cache: LatentCache | PagedCache, rank: int) -> str:
    """What of these shapes the kernel does not take; empty if it takes them."""
    paged = isinstance(cache, PagedCache)
    run, width = (cache.pages if paged else cache.entries).shape[1:]
    if width % LANES or rank % LANES:
        return f"R = {rank} and R + P = {width} must be multiples of {LANES}"
    if run % LANES or (paged and BLOCK % run):
        what = f"a page must divide {BLOCK} and" if paged else "the room of a cache must"
        return f"{what} be a multiple of {LANES} entries, got {run}"
    return ""


def attend(
    q_btne: Float[Array, "b t n e"],
    cache: LatentCache | PagedCache,
    lengths_b: Int[Array, " b"],
    rank: int,
    scale: float,
    block: int = BLOCK,
    splits: int | None = None,
    multiplied: jnp.dtype | None = None,
    interpret: object = False,
) -> Attended:
    """As `xla.attend`, for shapes in which `constraint` finds nothing.

    Args:
      q_btne: absorbed queries, bfloat16 or float32.
      cache: entries.
      lengths_b: entries before the first query's own.
      rank: R.
      scale: of scores.
      block: entries of a block, a multiple of the page.
      splits: parts into which every sequence is cut, by default the cores of a device.
      multiplied: the dtype of one byte that matrix units multiply, by default the device's; other
        entries are converted.
      interpret: as in `pallas_call`.
    """
    rows, count, heads, width = q_btne.shape
    paged, room = isinstance(cache, PagedCache), capacity(cache)
    page = cache.pages.shape[1] if paged else LANES
    block = min(block, room)
    tokens = min(count, max(1, ROWS // heads))
    splits = splits or _cores()
    plan = Plan(rank, scale, count, tokens, -(-count // tokens), splits, room)
    q_bime = _programs(q_btne, plan)
    lines = q_bime.shape[2]

    scalars = {"lengths": lengths_b.astype(jnp.int32)}
    if paged:
        scalars["table"] = cache.table.astype(jnp.int32)

    def of_program(split, number, *_):
        # Not `//` and `%`, which look at the local device, where there is none.
        return lax.div(number, plan.programs), lax.rem(number, plan.programs), 0, 0

    inputs, specs = {}, []

    def give(name: str, array: Array, spec: pl.BlockSpec) -> None:
        inputs[name] = array
        specs.append(spec)

    entries = cache.pages if paged else cache.entries
    # Computing in float32 asks for more than digits keep.
    multiplied = jnp.dtype(_multiplied() if multiplied is None else multiplied)
    if entries.dtype == multiplied and q_btne.dtype == jnp.bfloat16:
        q_bime, scales_bim = _digits(q_bime, entries.dtype)
        give("queries", q_bime, pl.BlockSpec((1, 1, *q_bime.shape[2:]), of_program))
        give("query_scales", _lanes(scales_bim), pl.BlockSpec((1, 1, lines, LANES), of_program))
    else:
        give("queries", q_bime, pl.BlockSpec((1, 1, lines, width), of_program))
    if tokens > 1:
        token_m = jnp.arange(lines, dtype=jnp.int32) // heads
        give("token", _lanes(token_m), pl.BlockSpec((lines, LANES), lambda s, i, *_: (0, 0)))
    give("entries", entries, pl.BlockSpec(memory_space=pl.ANY))
    if cache.scales is not None:
        give("scales", cache.scales, pl.BlockSpec(memory_space=pl.ANY))

    results = {
        "context": jax.ShapeDtypeStruct(
            (splits, rows, plan.programs, lines, rank),
            q_btne.dtype if splits == 1 else jnp.float32,
        ),
        "lse": jax.ShapeDtypeStruct((splits, rows, plan.programs, lines, LANES), jnp.float32),
    }
    scratch = {"entry_slots": pltpu.VMEM((SLOTS, block, width), entries.dtype)}
    if cache.scales is not None:
        scratch["scale_slots"] = pltpu.VMEM((SLOTS, 1, block), jnp.float32)
    scratch |= {
        "arrived": pltpu.SemaphoreType.DMA((SLOTS,)),
        "slot": pltpu.SMEM((1,), jnp.int32),
        "scores": pltpu.VMEM((lines, block), jnp.float32),
        "top": pltpu.VMEM((lines, LANES), jnp.float32),
        "total": pltpu.VMEM((lines, LANES), jnp.float32),
        "sum": pltpu.VMEM((lines, rank), jnp.float32),
    }

    def of_result(split, number, *_):
        return split, *of_program(split, number)

    context, lse = pl.pallas_call(
        functools.partial(
            program, names=(*scalars, *inputs, *results, *scratch), plan=plan, page=page
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(splits, rows * plan.programs),
            in_specs=specs,
            out_specs=[
                pl.BlockSpec((1, 1, 1, *result.shape[3:]), of_result) for result in results.values()
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
    found = Attended(_whole(context, plan, heads), _whole(lse[..., :1], plan, heads)[..., 0])
    if splits == 1:
        return Attended(*(part[0] for part in found))
    merged = merge(found)
    return Attended(merged.context.astype(q_btne.dtype), merged.lse)


def _programs(q_btne: Array, plan: Plan) -> Array:
    """Queries by program, [B, programs, m, E]: m are tokens x heads, filled up to whole tiles."""
    rows, count, heads, width = q_btne.shape
    more = plan.programs * plan.tokens - count
    q = jnp.pad(q_btne, ((0, 0), (0, more), (0, 0), (0, 0)))
    q = q.reshape(rows, plan.programs, plan.tokens * heads, width)
    return jnp.pad(q, ((0, 0), (0, 0), (0, -q.shape[2] % _SUBLANES), (0, 0)))


def _whole(by_program: Array, plan: Plan, heads: int) -> Array:
    """[splits, B, programs, m, n] -> [splits, B, T, N, n]."""
    splits, rows, _, _, last = by_program.shape
    found = by_program[:, :, :, : plan.tokens * heads]
    return found.reshape(splits, rows, -1, heads, last)[:, :, : plan.count]


def _digits(q_bime: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Queries in digits below each other [B, programs, 2 m, E], and their scales [.., m]."""
    kind, q = digits.KINDS[jnp.dtype(dtype)], q_bime.astype(jnp.float32)
    scales = jnp.abs(q).max(-1, keepdims=True) / kind.unit
    q = q / jnp.where(scales > 0, scales, 1)
    return digits.split(q, kind, kind.queries), scales[..., 0]


def _lanes(array: Array) -> Array:
    """The same in every lane of a new last axis."""
    return jnp.broadcast_to(array[..., None], (*array.shape, LANES))


def _cores() -> int:
    """Cores that one device is made of; those of v4 and v5p share its memory."""
    device = jax.devices()[0]
    return getattr(device, "num_cores", 1) if device.platform == "tpu" else 1


def _multiplied() -> jnp.dtype:
    """The dtype of one byte that matrix units multiply: up to v6e int8, afterwards fp8."""
    return jnp.dtype(jnp.float8_e4m3fn if "7" in jax.devices()[0].device_kind else jnp.int8)
