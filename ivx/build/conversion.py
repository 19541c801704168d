"""From a config to its conversion: what is converted, what it is calibrated on, and how."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import ml_collections
from jax.sharding import Mesh

from data_pipelines.batch import Batch
from ivx import build
from ivx.build import stored
from ivx.conversion import compression, convert, sequential, statistics, steps
from ivx.conversion.method import Method
from ivx.conversion.statistics import Statistics
from ivx.errors import UserError
from ivx.evaluation import held_out
from ivx.models.definition import ModelDefinition, Params
from ivx.training.progress import note

Config = ml_collections.ConfigDict
# Batches beyond those of the calibration, on which a balance is chosen.
SEARCH_BATCHES = 2


def source(config: Config) -> stored.StoredModel:
    """The stored model that is to be converted, which computes as the config says.

    Raises:
      UserError: the config converts nothing, its start is not such a model, or the latent is wider
        than what it stands for.
    """
    if config.stage.name != "convert" or config.model.attention == "gqa":
        raise UserError(
            f"ivx convert cannot run stage {config.stage.name} with attention"
            f" {config.model.attention}; give --config=experiments/convert.py"
        )
    if not config.run.start:
        raise UserError(
            "no --config.run.start was given; name the workdir of the model to convert,"
            " as in --config.run.start=/tmp/ivx/base"
        )
    base = stored.open_model(config.run.start)
    if base.config.model.attention != "gqa":
        raise UserError(
            f"run.start={base.folder} has {base.config.model.attention} attention already;"
            " take a model with gqa"
        )
    grouped = config.copy_and_resolve_references()
    grouped.model.attention = "gqa"
    definition = build.model_definition(grouped)
    stored.check_same_architecture(base, definition.spec)
    text = definition.spec.text
    compression.check_rank(text.kv_rank, (2 * text.kv_heads - 1) * text.head_dim)
    if config.stage.mean_rank > text.kv_rank:
        raise UserError(
            f"stage.mean_rank = {config.stage.mean_rank} is more than the widest latent may be,"
            f" model.kv_rank = {text.kv_rank}; raise that one, or lower the mean"
        )
    return dataclasses.replace(base, definition=definition)


class Calibration(NamedTuple):
    """From a number to the calibration batches from there on; batches to choose a balance by."""

    first: Callable[[int], Iterator[Batch]]
    more: Callable[[], list[Batch]]


def calibration(config: Config, base: stored.StoredModel) -> Calibration:
    """What the model of a config is calibrated on.

    Raises:
      UserError: the data are not usable, or too few.
    """
    rounds = -(-config.stage.calibration_packs // config.data.batch_packs)
    more = SEARCH_BATCHES if config.stage.balances else 0
    names = tuple(config.data.train)
    planned, opened = build.openable_batches(config, names, rounds + more)
    tokens = planned.token_fill * rounds * config.data.batch_packs * config.data.pack_tokens
    statistics.check_tokens(tokens, base.definition.spec.text.width, config.stage.norm)

    def first(start: int) -> Iterator[Batch]:
        return (batch for _, batch in zip(range(start, rounds), opened(start), strict=False))

    return Calibration(first, lambda: list(opened(rounds)))


def method(config: Config) -> Method:
    """How a conversion is done."""
    stage = config.stage
    return Method(
        norm=stage.norm,
        ridge=stage.ridge,
        rotation=stage.rotation,
        turn=stage.turn,
        weighting=stage.weighting,
        balance=stage.balance,
        mean_rank=stage.mean_rank,
        sequential=stage.sequential,
        polish=stage.polish,
    )


def solve(
    config: Config,
    definition: ModelDefinition,
    params: Params,
    sums: Statistics,
    calibration: Calibration,
    mesh: Mesh,
) -> tuple[convert.Converted, Iterator[steps.Step], dict[float, float]]:
    """The conversion, the models between, and the loss of each balance that was tried.

    Args:
      config: its stage says how.
      definition: of the model with grouped attention.
      params: its parameters.
      sums: of the calibration pass.
      calibration: what it was calibrated on.
      mesh: devices.

    Raises:
      UserError: the model cannot be converted so.
    """
    chosen, losses = method(config), {}
    exact = config.model.attention == "m2la_exact"
    fitted = [] if exact else convert.without_norm(definition, params, sums, chosen)
    kind = config.model.attention
    bind = steps.latent_definition(definition, definition.spec.text.kv_rank, kind).bind

    def converted(how: Method) -> convert.Converted:
        if exact:
            return convert.to_exact(definition, params, sums, how)
        return convert.to_latent(definition, params, fitted, sums, how)

    if config.stage.balances:
        measure = held_out.measure(bind, calibration.more(), mesh, config.stage.reduction)
        for balance in config.stage.balances:
            tried = converted(dataclasses.replace(chosen, balance=balance)).params
            losses[balance] = measure(tried)
            note(f"balance {balance:g}: loss {losses[balance]:.4f}")
        chosen = dataclasses.replace(chosen, balance=min(losses, key=losses.get))
    result = converted(chosen)
    if chosen.sequential or chosen.polish:
        ranks = tuple(layer.rank for layer in result.report)
        result = sequential.refine(
            definition, params, calibration.first, mesh, chosen, kind, ranks, note
        )
    between = steps.steps(definition, params, fitted, sums, chosen, result.params, kind)
    return result, between, losses
