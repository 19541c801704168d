"""Stored models: a workdir with checkpoints, or a Hugging Face folder, opened in the same way."""

import dataclasses
import pathlib

import jax
import ml_collections

from ivx import config as configs
from ivx.build import hugging_face
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import rules
from ivx.text import tokenizer
from ivx.training import checkpoint
from ivx.training.lora import LoraDefinition, LoraSpec


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model on disk.

    Attributes:
      folder: the workdir or Hugging Face folder.
      config: of the run; of a Hugging Face folder, one that lays samples out as it asks for.
      definition: the model.
    """

    folder: pathlib.Path
    config: ml_collections.ConfigDict
    definition: ModelDefinition

    def load(self, shardings: Params | None = None) -> tuple[Params, int]:
        """Its newest parameters, float32, and their step; without shardings, on one device.

        Of a run that keeps a running mean of them, that.

        Raises:
          UserError: there is no whole checkpoint.
        """
        if not hugging_face.is_model(self.folder):
            return self._trained(shardings)
        params = hugging_face.read_params(self.folder, self.definition)
        if not shardings:
            return jax.device_put(params), 0
        return jax.tree.map(rules.put_whole, params, shardings), 0

    def _trained(self, shardings: Params | None) -> tuple[Params, int]:
        """The parameters of a run, what LoRA added to them merged in."""
        trained = as_trained(self.config, self.definition)
        if trained is not self.definition and shardings:
            mesh = jax.tree.leaves(shardings)[0].mesh
            shardings = rules.parameter_shardings(trained.abstract, mesh)
        averaged = self.config.optim.ema > 0
        found, step = checkpoint.load_params(
            self.folder, trained.abstract_params, shardings, averaged
        )
        return (found if trained is self.definition else trained.merge(found)), step


def open_model(path: str | pathlib.Path) -> StoredModel:
    """Opens a workdir or a Hugging Face folder.

    Raises:
      UserError: the path holds neither.
    """
    folder = pathlib.Path(path)
    hugging = hugging_face.is_model(folder)
    config = hugging_face.config_of(folder) if hugging else configs.load_workdir(folder)
    return StoredModel(folder, config, ModelDefinition(model_spec(config)))


def model_spec(config: ml_collections.ConfigDict) -> specs.ModelSpec:
    """Sizes of the model of a config."""
    model = config.model
    found = specs.PRESETS[model.preset](model.attention, model.dtype)
    text = dataclasses.replace(found.text, kv_rank=model.kv_rank or found.text.kv_rank)
    return dataclasses.replace(found, text=text, remat=model.remat)


def as_trained(config: ml_collections.ConfigDict, definition: ModelDefinition) -> ModelDefinition:
    """The model with LoRA where the config asks for it, else itself.

    Raises:
      UserError: LoRA takes no kernel, or one thinner than its rank.
    """
    optim = config.optim
    if not optim.lora_rank:
        return definition
    spec = LoraSpec(optim.lora_rank, optim.lora_alpha, tuple(optim.lora_targets))
    return LoraDefinition(definition, spec)


def words(config: ml_collections.ConfigDict) -> tokenizer.Tokenizer:
    """The tokenizer of a config.

    Raises:
      UserError: there is none, or it is damaged.
    """
    try:
        return tokenizer.load(config.data.tokenizer)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error


def check_whole(model: StoredModel) -> None:
    """Refuses a workdir in which no checkpoint is whole yet.

    Raises:
      UserError: there is none.
    """
    if not hugging_face.is_model(model.folder):
        checkpoint.latest_step(model.folder)


def check_same_architecture(model: StoredModel, wanted: specs.ModelSpec) -> None:
    """Refuses to start a run from a model of other sizes.

    Raises:
      UserError: says what differs, and which command makes what is needed.
    """
    found = model.definition.spec
    if found.text.attention != wanted.text.attention:
        raise UserError(
            f"run.start={model.folder} has {found.text.attention} attention, this run trains"
            f" {wanted.text.attention}; "
            + (
                "`ivx convert` turns gqa into it"
                if wanted.text.attention != "gqa"
                else "take a model that was not converted"
            )
        )
    if found.text.attention == "gqa":
        # Its rank is that of the latent it may be converted to.
        text = dataclasses.replace(found.text, kv_rank=wanted.text.kv_rank)
        found = dataclasses.replace(found, text=text)
    if (found.vision, found.text) != (wanted.vision, wanted.text):
        differing = [
            f"{part}.{field.name} {getattr(mine, field.name)} against {getattr(theirs, field.name)}"
            for part, mine, theirs in (
                ("vision", found.vision, wanted.vision),
                ("text", found.text, wanted.text),
            )
            for field in dataclasses.fields(mine)
            if getattr(mine, field.name) != getattr(theirs, field.name)
        ]
        raise UserError(
            f"run.start={model.folder} is of another architecture: {', '.join(differing)};"
            " start from a checkpoint of the same model.preset"
        )
