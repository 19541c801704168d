"""The training steps that `ivx bench train` times: ours, and that of transformers."""

import dataclasses
import math
import pathlib

import jax
import numpy as np

from data_pipelines import layout, packing
from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.media import VideoRef
from data_pipelines.sources.sample import Sample
from data_pipelines.video import frames, patches, resize
from data_pipelines.video.info import VideoInfo
from ivx.commands.bench import model as bench_model
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition
from ivx.parallel import rules
from ivx.parallel.mesh import AXES, make_mesh
from ivx.stages.language_model import LanguageModelStage
from ivx.text import chat_template, tokenizer
from ivx.training import abstract
from ivx.training.optimizer import OptimizerSpec, make_optimizer
from ivx.training.state import init_state

# Below the special tokens of the compact tokenizer.
_WORDS = 700
_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step learns from: the same for all.

    Attributes:
      size: of the model, "64m" or "tiny".
      layouts: the samples, all of one length.
      pixels: the patches of each slice of each sample, uint8 [p, 1536].
      batch: the samples as packs of one.
      tokens: of all samples.
      frames: of all samples.
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
    laid = rule(Sample("bench", messages, (VideoRef("none", info),)))
    laid = _cut(laid, words)
    layouts, pixels = [], []
    for _ in range(count):
        tokens = np.where(laid.trained, rng.integers(0, _WORDS, len(laid.tokens)), laid.tokens)
        layouts.append(dataclasses.replace(laid, tokens=tokens.astype(np.int32)))
        pixels.append([rng.integers(0, 256, (n, patches.ROW), np.uint8) for n in laid.slice_sizes])
    grids = [patches.patch_grid(*clip.patch_shape) for clip in laid.clips for _ in clip.times]
    shape = packing.PackShape(len(laid.tokens), sum(laid.slice_sizes), laid.slice_sizes[0])
    packs = [
        packing.assemble([one], [(rows, grids)], shape)
        for one, rows in zip(layouts, pixels, strict=True)
    ]
    batch = jax.tree.map(lambda *rows: np.stack(rows), *packs)
    return Work(size, layouts, pixels, batch, count * len(laid.tokens), count * frame_count)


def _cut(laid: Layout, words: int) -> Layout:
    """The sample with its answer cut to `words` tokens."""
    end = int(np.flatnonzero(laid.trained)[0]) + words
    parts = {name: getattr(laid, name)[:end] for name in ("tokens", "trained", "is_visual")}
    return dataclasses.replace(laid, positions=laid.positions[:, :end], **parts)


def spec(size: str, attention: str) -> specs.ModelSpec:
    """The model of a size: `tiny` is the preset, `64m` has a tower of 8 blocks of 256."""
    if size == "tiny":
        found = specs.tiny(attention)
    else:
        tower = specs.VisionSpec(8, 256, 4, 1024, taps=(1, 3, 5), table_side=16)
        found = dataclasses.replace(bench_model.spec(size, attention), vision=tower)
    return dataclasses.replace(found, remat="none")


class Ours:
    """A step of ivx: over as many devices of this host as share the packs evenly."""

    def __init__(self, work: Work, attention: str, numbers: dict):
        self.definition = ModelDefinition(spec(work.size, attention))
        self.numbers = numbers
        optimizer = make_optimizer(
            OptimizerSpec(
                learning_rate=numbers["rate"],
                floor=numbers["rate"],
                warmup=0.0,
                steps=10**6,
                b1=numbers["betas"][0],
                b2=numbers["betas"][1],
                eps=numbers["eps"],
                weight_decay=numbers["decay"],
                clip=numbers["clip"],
            )
        )
        shared = math.gcd(len(work.layouts), jax.device_count())
        mesh = make_mesh(dict.fromkeys(AXES, 1) | {"replica": -1}, jax.devices()[:shared])
        shardings = abstract.state_shardings(self.definition, optimizer, mesh)
        self._state = jax.jit(
            lambda: init_state(self.definition.init(0), optimizer), out_shardings=shardings
        )()
        self.first_params = jax.device_get(self._state.params)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.first_params))
        stage = LanguageModelStage(lambda first: iter(()), [], "token")
        self._step = abstract.jit_step(self.definition, stage, optimizer, 1, shardings, mesh)
        self._batch = rules.put_batch(work.batch, mesh)

    def step(self) -> float:
        """Trains once; returns the loss."""
        self._state, metrics = self._step(self._state, {}, self._batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss/total"])


class Theirs:
    """A step of torch on the same model, written to `folder` on the way.

    Raises:
      UserError: transformers is not installed.
    """

    def __init__(self, ours: Ours, work: Work, folder: pathlib.Path, cores: int):
        from ivx.evaluation import observe_peer
        from ivx.hf import peer, processor, write
        from ivx.text import compact_tokenizer

        self._torch, _ = peer.modules()
        self._torch.set_num_threads(cores)
        rules_of_frames = processor.FrameRules()
        write.export(
            folder,
            ours.definition,
            ours.first_params,
            compact_tokenizer.PATH,
            rules_of_frames,
            {},
            "float32",
        )
        self._model = peer.load(folder).train()
        self.parameters = sum(one.numel() for one in self._model.parameters())
        asked = [
            observe_peer.inputs(self._model, one, rows)
            for one, rows in zip(work.layouts, work.pixels, strict=True)
        ]
        self._asked = {name: self._torch.cat([one[name] for one in asked]) for name in asked[0]}
        labels = [np.where(one.trained, one.tokens, -100) for one in work.layouts]
        self._asked["labels"] = self._torch.tensor(np.stack(labels).astype(np.int64))
        numbers = ours.numbers
        self._clip = numbers["clip"]
        # The fastest of torch's: all parameters in one pass over memory.
        self._optimizer = self._torch.optim.AdamW(
            self._model.parameters(),
            lr=numbers["rate"],
            betas=numbers["betas"],
            eps=numbers["eps"],
            weight_decay=numbers["decay"],
            fused=True,
        )

    def step(self) -> float:
        """Trains once; returns the loss."""
        loss = self._model(**self._asked, use_cache=False).loss
        loss.backward()
        self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.item()


def check_same(ours: Ours, theirs: Theirs, steps: int, tolerance: float) -> None:
    """Makes sure that both learn the same, so that their times can be compared.

    Raises:
      UserError: their losses differ.
    """
    losses = [(ours.step(), theirs.step()) for _ in range(steps)]
    if any(abs(a - b) > tolerance * abs(b) for a, b in losses):
        told = ", ".join(f"{a:.5f} and {b:.5f}" for a, b in losses)
        raise UserError(
            f"ivx and transformers do not train alike: losses {told}; their times mean nothing so;"
            " see where they part with `ivx verify --peer=transformers`"
        )
