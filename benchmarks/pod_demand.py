"""Data-loading demand of pod hosts, from measured costs and assumed step times.

measured    CPU time and bytes per frame, by `loading`, at 640x360; frames, tokens and attention
            cost per pack, from sizes drawn as in `packing`
assumed     those sizes; 8e9 parameters, 6 FLOPs per parameter and token, M2LA attention, 40 % of
            the peak of a chip; CPU time that grows in proportion to the pixels of the original

    step seconds = packs (6 N T + A sum of squared lengths) / (chips * peak * 0.4)
    cores a host = frames a second / hosts * CPU seconds a frame
"""

import dataclasses

import numpy as np

from benchmarks import packing
from data_pipelines import bin_packing
from data_pipelines import packing as packs
from data_pipelines.synthetic import lengths

_PARAMETERS = 8e9
_EFFICIENCY = 0.4
# Forward and twice that backward; half of the pairs are masked; 36 layers, 32 heads, queries and
# keys of width 256, values of width 128.
_ATTENTION = 3 * 0.5 * 2 * 36 * 32 * (256 + 128)
_SAMPLES = 4000
# Mean pixels of the originals of `lengths` over 640x360.
_PIXELS = np.mean([w * h for w, h in lengths.VIDEOS]) / (640 * 360)


@dataclasses.dataclass(frozen=True)
class Pod:
    """A slice.

    Attributes:
      name: Google's name.
      chips: their count.
      hosts: their count.
      peak: bfloat16 FLOPs a second per chip.
    """

    name: str
    chips: int
    hosts: int
    peak: float


PODS = (Pod("v5p-128", 64, 16, 459e12), Pod("v6e-256", 256, 64, 918e12))


def needs(rows: list[dict]) -> list[dict]:
    """The demand of each setting, pod and source.

    Args:
      rows: the results of `loading`.
    """
    return [_need(row, pod, _mixture(row["setting"])) for row in rows for pod in PODS]


def _mixture(name: str) -> dict[str, float]:
    """Means per pack: frames and squared lengths."""
    setting = packing.SETTINGS[name]
    drawn = lengths.draw(setting.stage, _SAMPLES, seed=0)
    fits = [packs.misfit(size, setting.shape) is None for size in drawn]
    sizes = drawn.take(np.flatnonzero(fits))
    filled = bin_packing.fill(sizes, setting.shape)
    # An image costs as much as decoding one frame.
    counts = sizes.runs[:, 1]
    return {
        "frames": float(np.where(counts > 1, 2 * counts, 1).sum() / len(filled)),
        "squares": float(bin_packing.costs(filled, sizes).mean()),
    }


def _need(row: dict, pod: Pod, mixture: dict[str, float]) -> dict:
    setting = packing.SETTINGS[row["setting"]]
    linear = 6 * _PARAMETERS * setting.shape.tokens
    flops = setting.batch * (linear + _ATTENTION * mixture["squares"])
    seconds = flops / (pod.chips * pod.peak * _EFFICIENCY)
    frames = setting.batch * mixture["frames"] / seconds
    # A proxy has the frame size of the original.
    cpu = row["cpu_ms_a_frame"] / 1e3 * _PIXELS
    read = row["file_mib"] * 2**20 / row["frames"] * _PIXELS
    return {
        "setting": row["setting"],
        "pod": pod.name,
        "source": row["source"],
        "step_seconds": seconds,
        "frames_a_second": frames,
        "read_gb_a_second": frames * read / 1e9,
        "to_device_gb_a_second": setting.batch * row["pack_mib"] * 2**20 / seconds / 1e9,
        "cores_a_host": frames / pod.hosts * cpu,
        "packs_a_host": setting.batch / pod.hosts,
    }


def table(demands: list[dict]) -> str:
    """The demands as Markdown."""
    lines = [
        "| job | pod | source | s a step (assumed) | frames/s | read GB/s | to devices GB/s"
        " | packs a host | cores a host |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for need in demands:
        lines.append(
            f"| {need['setting']} | {need['pod']} | {need['source']} | {need['step_seconds']:.1f}"
            f" | {need['frames_a_second']:,.0f} | {need['read_gb_a_second']:.3f}"
            f" | {need['to_device_gb_a_second']:.1f} | {need['packs_a_host']:g}"
            f" | {need['cores_a_host']:.1f} |"
        )
    return "\n".join(lines)
