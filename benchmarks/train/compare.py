"""`python -m benchmarks train`: a training step on text and video, in float32.

    step   forward, mean cross-entropy of the answers, backward, clipping, AdamW

With `--peer=transformers` transformers trains the same exported weights on the same batch, and the
losses of the first steps are compared before anything is timed. Neither recomputes activations in
the backward pass. Latent attention is timed too; it has no peer. Tunix, which trains Qwen3 in JAX,
has no vision model (google/tunix#1063) and is not compared.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import model, timing

# Goal, as a multiple of the peer's tokens a second.
TARGET = 1.3
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
# AdamW as the stages configure it.
_OPTIMIZER = {"rate": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "decay": 0.05, "clip": 1.0}
# Steps whose losses are compared before timing.
_COMPARED = 3
# float32 sums of thousands of products in another order differ by this much after some steps.
_TOLERANCE = 1e-3

SUMMARY = "A training step on text and video, compared with transformers."
EXAMPLE = "  python -m benchmarks train --peer=transformers --size=tiny"


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    timing.define_flags()
    flags.DEFINE_enum("peer", None, ["transformers"], "Library to compare with.")
    flags.DEFINE_enum(
        "size", "64m", list(model.SIZES), "Model size: 64 M parameters, or a tiny model."
    )
    flags.DEFINE_integer("train_samples", 4, "Samples per step.", 1)
    flags.DEFINE_integer("train_frames", 16, "Video frames per sample.", 2)
    flags.DEFINE_integer("train_words", 96, "Answer tokens per sample, which bear loss.", 1)


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Times both kinds of attention and, if selected, the peer."""
    del words
    cores = timing.use_cores(flag_values.threads)
    before = timing.load()
    from benchmarks.train import steps
    from ivx.parallel import devices

    # One device per core, as in the tiny experiments.
    devices.configure_devices(cpu_devices=cores if flag_values.train_samples % cores == 0 else 0)
    work = steps.make_work(
        flag_values.size,
        flag_values.train_samples,
        flag_values.train_frames,
        flag_values.train_words,
    )
    contestants, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for attention in ("gqa", "m2la"):
            ours = steps.Ours(work, attention, _OPTIMIZER)
            contestants["ivx", attention] = ours.step
            sizes["ivx", attention] = ours.parameters
            if flag_values.peer and attention == "gqa":
                other = steps.Theirs(ours, work, pathlib.Path(folder) / "model", cores)
                steps.check_same(ours, other, _COMPARED, _TOLERANCE)
                contestants[flag_values.peer, attention] = other.step
                sizes[flag_values.peer, attention] = other.parameters
        times = timing.take_turns(contestants, flag_values.repeats)
    rows = [
        {
            "name": name,
            "attention": attention,
            "parameters": sizes[name, attention],
            "tokens_per_second": round(work.tokens / measured.median, 1),
            "frames_per_second": round(work.frames / measured.median, 1),
            "spread": measured.spread,
            "seconds": [round(turn, 5) for turn in measured.turns],
        }
        for (name, attention), measured in times.items()
    ]
    result = {
        "machine": timing.machine(_PACKAGES) | {"cores": cores},
        "load": [before, timing.load()],
        "size": flag_values.size,
        "tokens_a_step": work.tokens,
        "frames_a_step": work.frames,
        "repeats": flag_values.repeats,
        "rows": rows,
    }
    if flag_values.peer:
        speed = {(row["name"], row["attention"]): row["tokens_per_second"] for row in rows}
        result["ratio"] = round(speed["ivx", "gqa"] / speed[flag_values.peer, "gqa"], 2)
    print(_page(result))
    return result


def _page(result: dict) -> str:
    """The result as printed."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = [
        machine,
        f"load {result['load'][0]} before, {result['load'][1]} after; {result['size']}, a step of"
        f" {result['tokens_a_step']:,} tokens, including those of {result['frames_a_step']} frames;"
        f" float32, medians of {result['repeats']} turns",
        f"{'':14s} {'attention':9s} {'parameters':>11s} {'tokens/s':>9s} {'frames/s':>9s}"
        "  shortest - longest turn",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:14s} {row['attention']:9s} {row['parameters']:11,d}"
            f" {row['tokens_per_second']:9,.1f} {row['frames_per_second']:9,.1f}  {row['spread']}"
        )
    if "ratio" in result:
        lines.append(f"{result['ratio']:.2f} times the peer, goal {TARGET:g}")
    return "\n".join(lines)
