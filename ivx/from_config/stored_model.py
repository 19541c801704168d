"""Stored models: workdirs with checkpoints and Hugging Face folders, behind one interface."""

import dataclasses
import pathlib

import jax
import ml_collections

from ivx import bundled, from_config
from ivx import workdir as workdirs
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import sharding
from ivx.training.checkpoints import checkpoint


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model on disk.

    Attributes:
      folder: the workdir or Hugging Face folder.
      config: of the run; for a Hugging Face folder, one with its frame and size settings.
      definition: the model.
    """

    folder: pathlib.Path
    config: ml_collections.ConfigDict
    definition: ModelDefinition

    def load(self, shardings: Params | None = None) -> tuple[Params, int]:
        """The newest float32 parameters, and their step; without shardings, on one device.

        For a run that keeps a moving average of the parameters, the average.

        Raises:
          UserError: there is no intact checkpoint.
        """
        if not from_config.hf_folder.is_model(self.folder):
            return self._trained(shardings)
        params = from_config.hf_folder.read_params(self.folder, self.definition)
        if not shardings:
            return jax.device_put(params), 0
        return jax.tree.map(sharding.put_host_array, params, shardings), 0

    def _trained(self, shardings: Params | None) -> tuple[Params, int]:
        """The parameters of a run, with LoRA merged."""
        trained = from_config.model.add_lora(self.config, self.definition)
        if trained is not self.definition and shardings:
            mesh = jax.tree.leaves(shardings)[0].mesh
            shardings = sharding.parameter_shardings(trained.abstract, mesh)
        averaged = self.config.optim.ema > 0
        params, step = checkpoint.load_params(
            self.folder, trained.abstract_params, shardings, averaged
        )
        return (params if trained is self.definition else trained.merge(params)), step


def open_model(path: str | pathlib.Path) -> StoredModel:
    """Opens a workdir or a Hugging Face folder, or a bundled model by name (`tiny-base`).

    Raises:
      UserError: the path holds neither.
    """
    folder = bundled.find(path)
    is_hf = from_config.hf_folder.is_model(folder)
    config = from_config.hf_folder.config_of(folder) if is_hf else workdirs.load(folder)
    return StoredModel(folder, config, ModelDefinition(from_config.model.spec_of(config)))


def check_has_checkpoint(model: StoredModel) -> None:
    """Checks that a workdir has a complete checkpoint.

    Raises:
      UserError: it has none.
    """
    if not from_config.hf_folder.is_model(model.folder):
        checkpoint.latest_step(model.folder)


def check_same_architecture(model: StoredModel, expected: specs.ModelSpec) -> None:
    """Checks that a run can start from a model.

    Raises:
      UserError: the architectures differ; names the differences and the remedy.
    """
    actual = model.definition.spec
    if actual.text.attention != expected.text.attention:
        raise UserError(
            f"run.start={model.folder} has {actual.text.attention} attention, but this run trains"
            f" {expected.text.attention}; "
            + (
                "convert it with `ivx convert`"
                if expected.text.attention != "gqa"
                else "start from a model that was not converted"
            )
        )
    if actual.text.attention == "gqa":
        # A gqa model has no latent: its kv_rank only matters for a later conversion.
        text = dataclasses.replace(actual.text, kv_rank=expected.text.kv_rank)
        actual = dataclasses.replace(actual, text=text)
    if (actual.vision, actual.text) != (expected.vision, expected.text):
        differing = [
            f"{part}.{field.name} is {getattr(a, field.name)}, not {getattr(b, field.name)}"
            for part, a, b in (
                ("vision", actual.vision, expected.vision),
                ("text", actual.text, expected.text),
            )
            for field in dataclasses.fields(a)
            if getattr(a, field.name) != getattr(b, field.name)
        ]
        raise UserError(
            f"run.start={model.folder} has another architecture: {', '.join(differing)};"
            " start from a checkpoint of the same model.preset"
        )
