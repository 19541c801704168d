"""Conversion from a config: source model, calibration data, method, and the solution itself."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import ml_collections
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from ivx import from_config
from ivx.conversion import compression, convert, sequential, statistics, steps
from ivx.conversion.method import Method
from ivx.conversion.statistics import Statistics
from ivx.errors import UserError
from ivx.evaluation import held_out
from ivx.from_config.stored_model import StoredModel
from ivx.models.definition import ModelDefinition, Params
from ivx.progress import note

Config = ml_collections.ConfigDict
# Extra batches after the calibration data, used to choose the balance.
SEARCH_BATCHES = 2


def source(config: Config) -> StoredModel:
    """The stored model to convert, with the config's compute settings.

    Raises:
      UserError: the config is not a conversion, its start cannot be converted, or the latent is
        wider than the keys and values that it replaces.
    """
    if config.stage.name != "convert" or config.model.attention == "gqa":
        raise UserError(
            f"ivx convert cannot run stage {config.stage.name} with attention"
            f" {config.model.attention}; use --config=convert"
        )
    if not config.run.start:
        raise UserError(
            "--config.run.start is missing; set it to the workdir of the model to convert,"
            " as in --config.run.start=/tmp/ivx/base"
        )
    base = from_config.stored_model.open_model(config.run.start)
    if base.config.model.attention != "gqa":
        raise UserError(
            f"run.start={base.folder} already has {base.config.model.attention} attention;"
            " start from a model with gqa"
        )
    grouped = config.copy_and_resolve_references()
    grouped.model.attention = "gqa"
    definition = from_config.model.definition(grouped)
    from_config.stored_model.check_same_architecture(base, definition.spec)
    text = definition.spec.text
    compression.check_rank(text.kv_rank, (2 * text.kv_heads - 1) * text.head_dim)
    if config.stage.mean_rank > text.kv_rank:
        raise UserError(
            f"stage.mean_rank = {config.stage.mean_rank} exceeds model.kv_rank = {text.kv_rank},"
            " the maximum rank of a layer; raise kv_rank or lower mean_rank"
        )
    return dataclasses.replace(base, definition=definition)


class Calibration(NamedTuple):
    """Calibration data.

    Attributes:
      rounds: number of the calibration batches.
      first: from a batch number to the calibration batches from there on.
      more: returns the extra batches for the choice of a balance.
    """

    rounds: int
    first: Callable[[int], Iterator[Batch]]
    more: Callable[[], list[Batch]]


def calibration(config: Config, base: StoredModel) -> Calibration:
    """The calibration data of a config.

    Raises:
      UserError: the data cannot be used, or there are too few.
    """
    rounds = -(-config.stage.calibration_packs // config.data.batch_packs)
    more = SEARCH_BATCHES if config.stage.balances else 0
    names = tuple(config.data.train)
    data_plan, open_batches = from_config.data.openable_batches(config, names, rounds + more)
    tokens = data_plan.token_fill * rounds * config.data.batch_packs * config.data.pack_tokens
    statistics.check_tokens(tokens, base.definition.spec.text.width, config.stage.norm)

    def first(start: int) -> Iterator[Batch]:
        return (batch for _, batch in zip(range(start, rounds), open_batches(start), strict=False))

    return Calibration(rounds, first, lambda: list(open_batches(rounds)))


def method(config: Config) -> Method:
    """The conversion method of a config."""
    stage = config.stage
    return Method(
        norm=stage.norm,
        ridge=stage.ridge,
        rotation=stage.rotation,
        mean_rotation=stage.mean_rotation,
        weighting=stage.weighting,
        balance=stage.balance,
        mean_rank=stage.mean_rank,
        sequential=stage.sequential,
        fit_output=stage.fit_output,
    )


def solve(
    config: Config,
    definition: ModelDefinition,
    params: Params,
    sums: Statistics,
    calibration: Calibration,
    mesh: Mesh,
) -> tuple[convert.Converted, Iterator[steps.Step], dict[float, float]]:
    """Solves the conversion.

    Args:
      config: its stage section holds the method.
      definition: the model with grouped attention.
      params: its parameters.
      sums: statistics of the calibration pass.
      calibration: the calibration data.
      mesh: devices.

    Returns:
      The converted model, the intermediate models, and the loss of each balance that was tried.

    Raises:
      UserError: the model cannot be converted with this method.
    """
    chosen, losses = method(config), {}
    exact = config.model.attention == "m2la_exact"
    fitted = [] if exact else convert.without_norm(definition, params, sums, chosen)
    kind = config.model.attention
    bind = steps.latent_definition(definition, definition.spec.text.kv_rank, kind).bind

    def solve_with(method: Method) -> convert.Converted:
        if exact:
            return convert.to_exact(definition, params, sums, method)
        return convert.to_latent(definition, params, fitted, sums, method)

    if config.stage.balances:
        measure = held_out.measure(bind, calibration.more(), mesh, config.stage.reduction)
        for balance in config.stage.balances:
            candidate = solve_with(dataclasses.replace(chosen, balance=balance))
            losses[balance] = measure(candidate.params)
            note(f"balance {balance:g}: loss {losses[balance]:.4f}")
        chosen = dataclasses.replace(chosen, balance=min(losses, key=losses.get))
    result = solve_with(chosen)
    if chosen.sequential or chosen.fit_output:
        ranks = tuple(layer.rank for layer in result.report)
        result = sequential.refine(definition, params, calibration.first, mesh, chosen, kind, ranks)
    intermediate = steps.steps(definition, params, fitted, sums, chosen, result.params, kind)
    return result, intermediate, losses
