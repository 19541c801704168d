"""The training steps that `python -m benchmarks train` times: those of ivx and transformers."""

import dataclasses
import math
import pathlib

import jax
import numpy as np

from benchmarks import model as bench_model
from data_pipelines import layout, packing
from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.media import VideoRef
from data_pipelines.sources.sample import Sample
from data_pipelines.video import frames, patches, resize
from data_pipelines.video.info import VideoInfo
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition
from ivx.parallel import batches
from ivx.parallel.mesh import AXES, make_mesh
from ivx.stages.language_model import LanguageModelStage
from ivx.text import chat_template, tokenizer
from ivx.training import step as training_step
from ivx.training.optimizer import OptimizerSpec, make_optimizer
from ivx.training.step import init_state

# Ids below the special tokens of the compact tokenizer.
_WORDS = 700
_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Work:
    """The data of a step, the same for all contestants.

    Attributes:
      size: of the model, "64m" or "tiny".
      layouts: the samples, all of one length.
      pixels: the patches of each slice of each sample, uint8 [p, 1536].
      batch: the samples, one per pack.
      tokens: count over all samples.
      frames: count over all samples.
    """

    size: str
    layouts: list[Layout]
    pixels: list[list[np.ndarray]]
    batch: Batch
    tokens: int
    frames: int


def make_work(size: str, count: int, frame_count: int, words: int) -> Work:
    """`count` samples of random pixels and random answers of `words` tokens."""
    rng = np.random.default_rng(0)
    info = VideoInfo(frame_count, 1.0, _SIDE, _SIDE)
    rule = layout.LayoutRule(
        tokenizer.load("compact"),
        frames.FrameRule(fps=1.0, min_frames=2, max_frames=frame_count),
        resize.PixelBudget(1, frame_count * _SIDE * _SIDE),
    )
    messages = (
        {"role": "user", "content": f"{chat_template.VIDEO_PLACEHOLDER}What is seen?"},
        {"role": "assistant", "content": "x" * 4 * words},
    )
    sample = rule.lay_out(Sample("bench", messages, (VideoRef("none", info),)))
    sample = _cut(sample, words)
    layouts, pixels = [], []
    for _ in range(count):
        answer = rng.integers(0, _WORDS, len(sample.tokens))
        tokens = np.where(sample.trained, answer, sample.tokens)
        layouts.append(dataclasses.replace(sample, tokens=tokens.astype(np.int32)))
        pixels.append(
            [rng.integers(0, 256, (size, patches.ROW), np.uint8) for size in sample.slice_sizes]
        )
    grids = [patches.patch_grid(*clip.patch_shape) for clip in sample.clips for _ in clip.times]
    shape = packing.PackShape(len(sample.tokens), sum(sample.slice_sizes), sample.slice_sizes[0])
    packs = [
        packing.assemble([sample], [(rows, grids)], shape)
        for sample, rows in zip(layouts, pixels, strict=True)
    ]
    batch = jax.tree.map(lambda *rows: np.stack(rows), *packs)
    return Work(size, layouts, pixels, batch, count * len(sample.tokens), count * frame_count)


def _cut(sample: Layout, words: int) -> Layout:
    """The sample with its answer cut to `words` tokens."""
    end = int(np.flatnonzero(sample.trained)[0]) + words
    parts = {name: getattr(sample, name)[:end] for name in ("tokens", "trained", "is_visual")}
    return dataclasses.replace(sample, positions=sample.positions[:, :end], **parts)


def spec(size: str, attention: str) -> specs.ModelSpec:
    """Sizes of a model: `tiny` is the preset, `64m` has a vision tower of 8 blocks of width 256."""
    if size == "tiny":
        sizes = specs.tiny(attention)
    else:
        tower = specs.VisionSpec(8, 256, 4, 1024, taps=(1, 3, 5), table_side=16)
        sizes = dataclasses.replace(bench_model.spec(size, attention), vision=tower)
    return dataclasses.replace(sizes, remat="none")


class Ours:
    """A step of ivx, over as many local devices as divide the packs evenly.

    Args:
      work: the data.
      attention: "gqa" or "m2la".
      hyperparameters: of AdamW: rate, betas, eps, decay, clip.
    """

    def __init__(self, work: Work, attention: str, hyperparameters: dict) -> None:
        self.definition = ModelDefinition(spec(work.size, attention))
        self.hyperparameters = hyperparameters
        optimizer = make_optimizer(
            OptimizerSpec(
                learning_rate=hyperparameters["rate"],
                floor=hyperparameters["rate"],
                warmup=0.0,
                steps=10**6,
                b1=hyperparameters["betas"][0],
                b2=hyperparameters["betas"][1],
                eps=hyperparameters["eps"],
                weight_decay=hyperparameters["decay"],
                clip=hyperparameters["clip"],
            )
        )
        devices = math.gcd(len(work.layouts), jax.device_count())
        mesh = make_mesh(dict.fromkeys(AXES, 1) | {"replica": -1}, jax.devices()[:devices])
        shardings = training_step.state_shardings(self.definition, optimizer, mesh)
        self._state = jax.jit(
            lambda: init_state(self.definition.init(0), optimizer), out_shardings=shardings
        )()
        self.first_params = jax.device_get(self._state.params)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.first_params))
        stage = LanguageModelStage(lambda first: iter(()), [], "token")
        self._step = training_step.jit_step(self.definition, stage, optimizer, shardings, mesh)
        self._batch = batches.put_batch(work.batch, mesh)

    def step(self) -> float:
        """Takes one step and returns the loss."""
        self._state, metrics = self._step(self._state, {}, self._batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss/total"])


class Theirs:
    """A step of torch on the same model, exported to `folder`.

    Raises:
      UserError: transformers is not installed.
    """

    def __init__(self, ours: Ours, work: Work, folder: pathlib.Path, cores: int) -> None:
        from ivx.evaluation import peer_activations
        from ivx.hf import peer, processor, write
        from ivx.text import compact_tokenizer

        self._torch, _ = peer.modules()
        self._torch.set_num_threads(cores)
        write.export(
            folder,
            ours.definition,
            ours.first_params,
            compact_tokenizer.PATH,
            processor.FrameRules(),
            {},
            "float32",
        )
        self._model = peer.load(folder).train()
        self.parameters = sum(weight.numel() for weight in self._model.parameters())
        inputs = [
            peer_activations.inputs(self._model, sample, rows)
            for sample, rows in zip(work.layouts, work.pixels, strict=True)
        ]
        self._inputs = {name: self._torch.cat([i[name] for i in inputs]) for name in inputs[0]}
        labels = [np.where(sample.trained, sample.tokens, -100) for sample in work.layouts]
        self._inputs["labels"] = self._torch.tensor(np.stack(labels).astype(np.int64))
        hyperparameters = ours.hyperparameters
        self._clip = hyperparameters["clip"]
        # torch's fastest variant: one pass over all parameters.
        self._optimizer = self._torch.optim.AdamW(
            self._model.parameters(),
            lr=hyperparameters["rate"],
            betas=hyperparameters["betas"],
            eps=hyperparameters["eps"],
            weight_decay=hyperparameters["decay"],
            fused=True,
        )

    def step(self) -> float:
        """Takes one step and returns the loss."""
        loss = self._model(**self._inputs, use_cache=False).loss
        loss.backward()
        self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.item()


def check_same(ours: Ours, theirs: Theirs, steps: int, tolerance: float) -> None:
    """Checks that both train alike, so their times are comparable.

    Raises:
      UserError: their losses differ.
    """
    losses = [(ours.step(), theirs.step()) for _ in range(steps)]
    if any(abs(a - b) > tolerance * abs(b) for a, b in losses):
        pairs = ", ".join(f"{a:.5f} and {b:.5f}" for a, b in losses)
        raise UserError(
            f"the losses of ivx and transformers differ ({pairs}), so their times are not"
            " comparable; find the difference with `ivx verify --peer=transformers`"
        )
