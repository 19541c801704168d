"""Records our model's activations and greedy answers for prompts.

Shapes: B prompts, C compared tokens per prompt; module outputs [C, channels] per prompt.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from data_pipelines.frame_cache import Pixels
from data_pipelines.layout import Layout
from ivx import progress
from ivx.evaluation.agreement import LOGITS, Outputs
from ivx.models import intermediates as inside
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import compiler, sharding
from ivx.sampling import sampler as samplers
from ivx.text.tokenizer import Tokenizer

# Maximum number of compared tokens of a prompt; longer prompts are sampled evenly.
MOST_TOKENS = 512


class ActivationRecorder:
    """Runs models of one definition; compiled programs are shared by all their parameters.

    Args:
      definition: the model.
      tokenizer: decodes the answers.
      mesh: devices over which the parameters are sharded; None for a single device.
    """

    def __init__(
        self, definition: ModelDefinition, tokenizer: Tokenizer, mesh: Mesh | None = None
    ) -> None:
        self._taps = len(definition.spec.vision.taps)
        self._tokenizer, self._mesh = tokenizer, mesh
        self._sampler = samplers.Sampler(definition, {}, tokenizer.end_of_turn, mesh)
        self._run = jax.jit(
            functools.partial(_run, definition),
            compiler_options=compiler.inference_options(mesh, definition.spec.dtype),
        )

    def __call__(
        self, params: Params, layouts: Sequence[Layout], pixels: Sequence[Pixels], limit: int
    ) -> list[Outputs]:
        """Runs all prompts in one batch.

        Args:
          params: of the model.
          layouts: prompts that end with an open assistant turn.
          pixels: what `Layout.read_patches` returned for each.
          limit: maximum tokens of an answer.
        """
        answers = self._sampler.at(params).generate(layouts, pixels, limit)
        batch = samplers.batch_prompts(layouts, pixels).batch
        chosen = [chosen_tokens(len(layout.tokens)) for layout in layouts]
        # Rows are padded to equal length by repeating the last token, which is dropped below.
        longest = max(map(len, chosen))
        chosen_bc = np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row in chosen])
        inputs = batch, chosen_bc
        if self._mesh is not None:
            inputs = jax.device_put(inputs, sharding.replicated(self._mesh))
        with progress.waiting("comparing layer by layer"):
            outputs = jax.device_get(self._run(params, *inputs))
        return [
            Outputs(_parts(outputs, row, len(chosen[row]), _groups(batch, row), self._taps), text)
            for row, text in enumerate(map(self._tokenizer.decode, answers))
        ]


def chosen_tokens(count: int) -> np.ndarray:
    """Indices of the compared tokens of a prompt of `count` tokens: int [C], including the last."""
    return np.linspace(0, count - 1, min(count, MOST_TOKENS)).round().astype(np.int64)


def part_names(layers: int, taps: int) -> list[str]:
    """HF names of all modules, in order of computation."""
    return [
        "language_model.embed_tokens",
        *(f"visual.deepstack_merger_list.{number}" for number in range(taps)),
        "visual.merger",
        *(f"language_model.layers.{number}" for number in range(layers)),
        "language_model.norm",
        LOGITS,
    ]


def _run(
    definition: ModelDefinition, params: Params, batch: Batch, chosen_bc: jax.Array
) -> inside.Intermediates:
    return inside.intermediates(definition.bind(params), batch, chosen_bc)


def _groups(batch: Batch, row: int) -> np.ndarray:
    """Indices of a row's patch groups without padding; each group is one visual token."""
    return np.flatnonzero(batch.slices[row, ::4] > 0)


def _parts(
    outputs: inside.Intermediates, row: int, count: int, groups: np.ndarray, taps: int
) -> dict[str, np.ndarray]:
    """Module outputs of one row without padding; the tower's only if the prompt has visuals."""
    arrays = [
        outputs.words[row, :count],
        *(outputs.taps[number, row, groups] for number in range(taps)),
        outputs.visual[row, groups],
        *(layer[row, :count] for layer in outputs.layers),
        outputs.final[row, :count],
        outputs.logits[row, :count],
    ]
    names = part_names(len(outputs.layers), taps)
    return {
        name: np.asarray(array, np.float32)
        for name, array in zip(names, arrays, strict=True)
        if len(array)
    }
