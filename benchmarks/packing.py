"""`python -m benchmarks packing`: fill and balance of packs of the published lengths.

Sizes are drawn, see `data_pipelines.synthetic.lengths`. Timed is the planning of one epoch, in CPU
seconds.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from data_pipelines import bin_packing, packing
from data_pipelines.synthetic import lengths
from data_pipelines.video.frames import FrameRule
from data_pipelines.video.resize import PixelBudget

_BUDGET = 32768 * 4 * 32 * 32
_IMAGES = PixelBudget(4 * 32 * 32, 4096 * 32 * 32)

SUMMARY = "Fill and balance of packs of the published lengths."
EXAMPLE = "  python -m benchmarks packing --samples=1000000"


@dataclasses.dataclass(frozen=True)
class _Setting:
    """The shape of a pack, packs per step, and the layout of samples."""

    shape: packing.PackShape
    batch: int
    stage: lengths.Stage


# Those of experiments/cpt.py, sft_short.py and sft_long.py at 8b.
SETTINGS = {
    "cpt, sft_short": _Setting(
        packing.PackShape(65536, 262144, 16384),
        128,
        lengths.Stage(FrameRule(2.0, 4, 768), PixelBudget(4 * 4 * 32 * 32, _BUDGET), _IMAGES),
    ),
    "sft_long": _Setting(
        packing.PackShape(262144, 1048576, 16384),
        8,
        lengths.Stage(FrameRule(4.0, 4, 2048), PixelBudget(4 * 4 * 32 * 32, 4 * _BUDGET), _IMAGES),
    ),
}


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_integer("samples", 100_000, "Samples to pack.", lower_bound=1000)


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Packs both settings and prints a line each."""
    del words
    rows = [measure(name, flag_values.samples) for name in SETTINGS]
    for row in rows:
        print(
            f"{row['stage']}: {row['samples']:,} samples in {row['packs']:,} packs of"
            f" {row['pack_tokens']:,} tokens in {row['seconds']:.1f} s; {row['token_fill']:.2%} of"
            f" tokens and {row['patch_fill']:.1%} of patches used; max / mean pack cost per step"
            f" {row['unevenness']:.3f}, {row['unevenness_as_filled']:.2f} without balancing, max /"
            f" mean host cost {row['host_unevenness']:.3f} over {row['hosts']} hosts;"
            f" {row['dropped']:,} samples are too long, with {row['dropped_tokens']:.1%} of all"
            f" tokens, {row['left']:,} left over"
        )
    return {"rows": rows}


def measure(name: str, samples: int) -> dict:
    """Packs one epoch of `samples` at one setting."""
    shape, batch = SETTINGS[name].shape, SETTINGS[name].batch
    drawn = lengths.draw(SETTINGS[name].stage, samples, seed=0)
    start = time.process_time()
    fits = [packing.misfit(size, shape) is None for size in drawn]
    sizes = drawn.take(np.flatnonzero(fits))
    packs = bin_packing.fill(sizes, shape)
    whole = packs[: len(packs) // batch * batch]
    cost = bin_packing.costs(whole, sizes)
    order = bin_packing.level(cost, batch, np.random.default_rng(0))
    seconds = time.process_time() - start
    used = np.concatenate(whole)
    hosts = min(16, batch)
    shares = cost[order].reshape(-1, batch // hosts, hosts).sum(1).reshape(-1)
    return {
        "stage": name,
        "samples": samples,
        "pack_tokens": shape.tokens,
        "packs": len(whole),
        "seconds": seconds,
        "token_fill": float(sizes.tokens[used].sum() / len(whole) / shape.tokens),
        "patch_fill": float(sizes.patches()[used].sum() / len(whole) / shape.patches),
        "unevenness_as_filled": bin_packing.unevenness(cost, batch),
        "unevenness": bin_packing.unevenness(cost[order], batch),
        "hosts": hosts,
        "host_unevenness": bin_packing.unevenness(shares, hosts),
        "dropped": fits.count(False),
        "dropped_tokens": float(1 - sizes.tokens.sum() / drawn.tokens.sum()),
        "left": len(sizes) - len(used),
    }
