"""What a model of ours makes of prompts: every part's output, and the greedy answer."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from ivx.evaluation.agreement import LOGITS, Seen
from ivx.models import intermediates as inside
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import rules
from ivx.sampling import sampler as samplers
from ivx.text.tokenizer import Tokenizer

# Tokens of a prompt whose logits are kept; those of a long one are chosen evenly.
MOST_TOKENS = 512


class Observer:
    """Runs models of one definition; what is compiled serves all of their parameters.

    Args:
      definition: the model.
      tokenizer: of its answers.
      mesh: devices over which parameters lie; None where that is one.
    """

    def __init__(self, definition: ModelDefinition, tokenizer: Tokenizer, mesh: Mesh | None = None):
        self._taps = len(definition.spec.vision.taps)
        self._tokenizer, self._mesh = tokenizer, mesh
        self._sampler = samplers.Sampler(definition, {}, tokenizer.end_of_turn, mesh)
        self._run = jax.jit(functools.partial(_run, definition))

    def __call__(
        self, params: Params, layouts: Sequence[Layout], pixels: Sequence[tuple], limit: int
    ) -> list[Seen]:
        """Runs all prompts at once.

        Args:
          params: of the model.
          layouts: prompts that end with an open assistant turn.
          pixels: for each, what `Layout.read_patches` gave.
          limit: tokens an answer may have.
        """
        answers = self._sampler.at(params).generate(layouts, pixels, limit)
        batch = samplers.batch_prompts(layouts, pixels).batch
        chosen = [chosen_tokens(len(layout.tokens)) for layout in layouts]
        # Rows of one length for the device: what is short repeats its last token, dropped below.
        widest = max(map(len, chosen))
        chosen_bc = np.stack([np.pad(row, (0, widest - len(row)), mode="edge") for row in chosen])
        asked = batch, chosen_bc
        if self._mesh is not None:
            asked = jax.device_put(asked, rules.replicated(self._mesh))
        found = jax.device_get(self._run(params, *asked))
        return [
            Seen(_parts(found, row, len(chosen[row]), _groups(batch, row), self._taps), text)
            for row, text in enumerate(map(self._tokenizer.decode, answers))
        ]


def chosen_tokens(count: int) -> np.ndarray:
    """The tokens of a prompt of `count` that are compared: int [C], the last among them."""
    return np.linspace(0, count - 1, min(count, MOST_TOKENS)).round().astype(np.int64)


def part_names(layers: int, taps: int) -> list[str]:
    """Names of all parts in the order of computation, as HF calls their modules."""
    return [
        "language_model.embed_tokens",
        *(f"visual.deepstack_merger_list.{number}" for number in range(taps)),
        "visual.merger",
        *(f"language_model.layers.{number}" for number in range(layers)),
        "language_model.norm",
        LOGITS,
    ]


def _run(definition: ModelDefinition, params: Params, batch: Batch, chosen_bc: jax.Array):
    return inside.intermediates(definition.bind(params), batch, chosen_bc)


def _groups(batch: Batch, row: int) -> np.ndarray:
    """Patch groups of a row that are no padding, in order: each is one visual token."""
    return np.flatnonzero(batch.slices[row, ::4] > 0)


def _parts(
    found: inside.Intermediates, row: int, count: int, groups: np.ndarray, taps: int
) -> dict[str, np.ndarray]:
    """The parts of one row without padding; without videos, none of the tower."""
    arrays = [
        found.words[row, :count],
        *(found.taps[number, row, groups] for number in range(taps)),
        found.visual[row, groups],
        *(layer[row, :count] for layer in found.layers),
        found.final[row, :count],
        found.logits[row, :count],
    ]
    names = part_names(len(found.layers), taps)
    return {
        name: np.asarray(array, np.float32)
        for name, array in zip(names, arrays, strict=True)
        if len(array)
    }
