"""`ivx bench packing`: how full and even packs of the published lengths are.

The sizes are drawn, see `data_pipelines.synthetic.lengths`; what is timed is the
planning of one epoch, in CPU seconds.
"""

import dataclasses
import time

import numpy as np
from absl import flags

from data_pipelines import filling, packing
from data_pipelines.synthetic import lengths
from data_pipelines.video.frames import FrameRule
from data_pipelines.video.resize import PixelBudget

_BUDGET = 32768 * 4 * 32 * 32
_IMAGES = PixelBudget(4 * 32 * 32, 4096 * 32 * 32)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A pack, packs of a step, and how samples are laid out."""

    shape: packing.PackShape
    batch: int
    stage: lengths.Stage


# As experiments/cpt.py, sft_short.py and sft_long.py have them at 8b.
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
    flags.DEFINE_integer("samples", 100_000, "Samples to pack.", lower_bound=1000)


def run(given) -> dict:
    rows = [measure(name, given.samples) for name in SETTINGS]
    for row in rows:
        print(
            f"{row['stage']}: {row['samples']:,} samples in {row['packs']:,} packs of"
            f" {row['pack_tokens']:,} tokens in {row['seconds']:.1f} s; {row['token_fill']:.2%} of"
            f" tokens and {row['patch_fill']:.1%} of patches used; the dearest pack of a step"
            f" costs {row['unevenness']:.3f} times the mean, {row['unevenness_as_filled']:.2f}"
            f" if not levelled, the dearest host {row['host_unevenness']:.3f} of"
            f" {row['hosts']}; {row['dropped']:,} samples are too long, with"
            f" {row['dropped_tokens']:.1%} of all tokens, {row['left']:,} left over"
        )
    return {"rows": rows}


def measure(name: str, samples: int) -> dict:
    """Packs `samples` at one setting, once through."""
    shape, batch = SETTINGS[name].shape, SETTINGS[name].batch
    drawn = lengths.draw(SETTINGS[name].stage, samples, seed=0)
    start = time.process_time()
    fits = [packing.misfit(size, shape) is None for size in drawn]
    sizes = drawn.take(np.flatnonzero(fits))
    packs = filling.fill(sizes, shape)
    whole = packs[: len(packs) // batch * batch]
    cost = filling.costs(whole, sizes)
    order = filling.level(cost, batch, np.random.default_rng(0))
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
        "unevenness_as_filled": filling.unevenness(cost, batch),
        "unevenness": filling.unevenness(cost[order], batch),
        "hosts": hosts,
        "host_unevenness": filling.unevenness(shares, hosts),
        "dropped": fits.count(False),
        "dropped_tokens": float(1 - sizes.tokens.sum() / drawn.tokens.sum()),
        "left": len(sizes) - len(used),
    }
