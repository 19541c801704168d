"""`ivx bench train`: a training step on text and video, in float32, beside transformers.

    step   forward, mean cross-entropy of the answers, backward, clipping, AdamW

The peer has the same weights and the same batch: weights are exported and loaded by transformers,
and the losses of the first steps are compared before anything is timed. Neither recomputes in the
backward pass. Latent attention is shown too; it has no peer. Tunix, which trains Qwen3 in JAX, has
no model that sees (google/tunix#1063), and so is not beside it.
"""

import pathlib
import tempfile

from absl import flags

from ivx.commands.bench import timing

# What ivx aims at, as a multiple of the peer's tokens a second.
TARGET = 1.3
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
# AdamW as the stages have it.
_OPTIMIZER = {"rate": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "decay": 0.05, "clip": 1.0}
# Steps of each whose losses are compared before any is timed.
_COMPARED = 3
# Sums of thousands of products, in another order: float32 differs by that much after some steps.
_TOLERANCE = 1e-3


def define_flags() -> None:
    flags.DEFINE_integer("train_samples", 4, "bench train: samples of a step.", 1)
    flags.DEFINE_integer("train_frames", 16, "bench train: frames of the video of a sample.", 2)
    flags.DEFINE_integer("train_words", 96, "bench train: tokens of an answer, which bear loss.", 1)


def run(given) -> dict:
    cores = timing.use_cores(given.threads)
    before = timing.load()
    from ivx.commands.bench import train_steps
    from ivx.parallel import start

    # As the tiny experiments train: a device for each core.
    start.start(cpu_devices=cores if given.train_samples % cores == 0 else 0)
    work = train_steps.make_work(
        given.size, given.train_samples, given.train_frames, given.train_words
    )
    contestants, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for attention in ("gqa", "m2la"):
            ours = train_steps.Ours(work, attention, _OPTIMIZER)
            contestants["ivx", attention] = ours.step
            sizes["ivx", attention] = ours.parameters
            if given.peer and attention == "gqa":
                other = train_steps.Theirs(ours, work, pathlib.Path(folder) / "model", cores)
                train_steps.check_same(ours, other, _COMPARED, _TOLERANCE)
                contestants[given.peer, attention] = other.step
                sizes[given.peer, attention] = other.parameters
        times = timing.take_turns(contestants, given.repeats)
    rows = [
        {
            "name": name,
            "attention": attention,
            "parameters": sizes[name, attention],
            "tokens_per_second": round(work.tokens / found.median, 1),
            "frames_per_second": round(work.frames / found.median, 1),
            "spread": found.spread,
            "seconds": [round(turn, 5) for turn in found.turns],
        }
        for (name, attention), found in times.items()
    ]
    result = {
        "machine": timing.machine(_PACKAGES) | {"cores": cores},
        "load": [before, timing.load()],
        "size": given.size,
        "tokens_a_step": work.tokens,
        "frames_a_step": work.frames,
        "repeats": given.repeats,
        "rows": rows,
    }
    if given.peer:
        speed = {(row["name"], row["attention"]): row["tokens_per_second"] for row in rows}
        result["ratio"] = round(speed["ivx", "gqa"] / speed[given.peer, "gqa"], 2)
    print(_page(result))
    return result


def _page(result: dict) -> str:
    """The result for reading."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = [
        machine,
        f"load {result['load'][0]} before, {result['load'][1]} after; {result['size']}, a step of"
        f" {result['tokens_a_step']:,} tokens, of which {result['frames_a_step']} frames make some;"
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
        lines.append(f"{result['ratio']:.2f} times the peer, wanted {TARGET:g}")
    return "\n".join(lines)
