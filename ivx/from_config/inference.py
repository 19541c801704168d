"""Samplers and assistants from stored models."""

from jax.sharding import Mesh

from ivx import from_config
from ivx.assistant import Assistant
from ivx.from_config.stored_model import StoredModel
from ivx.parallel import sharding
from ivx.sampling.sampler import Sampler


def sampler(model: StoredModel, mesh: Mesh | None = None) -> tuple[Sampler, int]:
    """A sampler with a stored model's parameters, sharded over the mesh if given; and their step.

    Raises:
      UserError: there is no checkpoint.
    """
    shardings = sharding.parameter_shardings(model.definition.abstract, mesh) if mesh else None
    end = from_config.model.load_tokenizer(model.config).end_of_turn
    params, step = model.load(shardings, model.definition.spec.dtype)
    return Sampler(model.definition, params, end, mesh, model.config.model.cache), step


def assistant(model: StoredModel) -> Assistant:
    """An assistant with a stored model's parameters.

    Raises:
      UserError: there is no checkpoint.
    """
    return Assistant(from_config.data.layout_rule(model.config), sampler(model)[0])
