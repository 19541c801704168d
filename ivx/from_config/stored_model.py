"""Stored models: workdirs with checkpoints and Hugging Face folders, behind one interface."""

import dataclasses
import pathlib

import jax
import ml_collections

from ivx import bundled, from_config
from ivx import workdir as workdirs
from ivx.errors import UserError
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, Params, cast, held_in
from ivx.parallel import available_memory, sharding
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

    def load(self, shardings: Params | None = None, dtype: str = "float32") -> tuple[Params, int]:
        """The newest parameters, and their step; without shardings, on one device.

        For a run that keeps a moving average of the parameters, the average.

        Args:
          shardings: of the parameters.
          dtype: of kernels and embeddings; what trains is float32.

        Raises:
          UserError: there is no intact checkpoint.
        """
        if not from_config.hf_folder.is_model(self.folder):
            return self._trained(shardings, dtype)
        abstract = held_in(dtype, self.definition.abstract_params)
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        places = shardings or jax.tree.map(lambda _: first, abstract)
        sharded = jax.tree.map(
            lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
            abstract,
            places,
        )
        # One array at a time is in host memory, if the device has its own.
        put = lambda array, leaf: jax.block_until_ready(  # noqa: E731
            sharding.put_host_array(array, leaf.sharding)
        )
        return from_config.hf_folder.read_params(self.folder, self.definition, sharded, put), 0

    def _trained(self, shardings: Params | None, dtype: str) -> tuple[Params, int]:
        """The parameters of a run, with LoRA merged."""
        trained = from_config.model.add_lora(self.config, self.definition)
        averaged = self.config.optim.ema > 0
        if trained is self.definition:
            abstract = held_in(dtype, self.definition.abstract_params)
            return checkpoint.load_params(self.folder, abstract, shardings, averaged)
        if shardings:
            mesh = jax.tree.leaves(shardings)[0].mesh
            shardings = sharding.parameter_shardings(trained.abstract, mesh)
        params, step = checkpoint.load_params(
            self.folder, trained.abstract_params, shardings, averaged
        )
        # Merged in float32, since B is small beside the kernel.
        return cast(trained.absorb(params), dtype), step


def open_model(path: str | pathlib.Path) -> StoredModel:
    """Opens a workdir or a Hugging Face folder, or a bundled model by name (`tiny-base`).

    Raises:
      UserError: the path holds neither.
    """
    folder = bundled.find(path)
    is_hf = from_config.hf_folder.is_model(folder)
    config = from_config.hf_folder.config_of(folder) if is_hf else workdirs.load(folder)
    return StoredModel(folder, config, ModelDefinition(from_config.model.spec_of(config)))


def with_dtype(model: StoredModel, dtype: str | None) -> StoredModel:
    """The model with another dtype of computation.

    Args:
      model: a stored model.
      dtype: float32, bfloat16, or None for its own. `auto` is its own on an accelerator. On a CPU
        it is float32, which is faster there, unless only bfloat16 fits into memory.
    """
    if dtype == "auto":
        dtype = model.definition.spec.dtype
        if jax.default_backend() == "cpu":
            leaves = jax.tree.leaves(model.definition.abstract_params)
            needed = 1.3 * 4 * sum(leaf.size for leaf in leaves) + 2**30
            memory = available_memory.of_host()
            dtype = "bfloat16" if memory and memory.available < needed else "float32"
    if dtype is None or dtype == model.definition.spec.dtype:
        return model
    spec = dataclasses.replace(model.definition.spec, dtype=dtype)
    return dataclasses.replace(model, definition=ModelDefinition(spec))


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
