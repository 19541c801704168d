"""What a run is made of, and how one step changes it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from data_pipelines.batch import Batch
from ivx.models.definition import ModelDefinition, Params
from ivx.stages.protocol import Loss, Stage
from ivx.training import ema
from ivx.training.drop_path import drop_paths
from ivx.training.parts import ALL, Parts, dotted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a checkpoint holds besides the data position.

    Attributes:
      step: steps taken.
      params: float32 masters, a nested dict.
      opt_state: of optax.
      skipped: steps whose gradient was not finite, and which changed nothing.
      averaged: running mean of the parameters; None where none is kept.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    skipped: Int[Array, ""]
    averaged: Params | None = None


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step may do beside the usual; by default none of it.

    Attributes:
      parts: of the parameters that train, among those of the stage.
      ema: decay of the running mean of the parameters; 0: none is kept.
      drop_path: chance that the last block of the vision tower is left out of a step.
      seed: of what is drawn.
    """

    parts: Parts = ALL
    ema: float = 0.0
    drop_path: float = 0.0
    seed: int = 0


# Nothing but the step itself.
USUAL = StepOptions()


def init_state(
    params: Params, optimizer: optax.GradientTransformation, averaged: bool = False
) -> TrainState:
    """A state before the first step; `averaged` if it keeps a running mean."""
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        optimizer.init(params),
        jnp.zeros((), jnp.int32),
        params if averaged else None,
    )


def trainable(params: Params, stage: Stage, parts: Parts = ALL) -> dict:
    """True or False for each parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: (
            stage.trains(tuple(entry.key for entry in path)) and parts.trains(dotted(path))
        ),
        params,
    )


def make_step(
    definition: ModelDefinition,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    options: StepOptions = USUAL,
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """The training step as a pure function of state, the stage's frozen parameters and a batch.

    Numerator, denominator and gradient of the loss are summed over `accumulation` micro-batches
    before the division, so that their number changes nothing but memory. A step whose gradient is
    not finite leaves parameters and optimizer as they were and is counted.
    """

    def step(
        state: TrainState, frozen: Params, batch: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        mask = trainable(state.params, stage, options.parts)

        def total(params: Params, batch: Batch) -> tuple[Array, Loss]:
            if not all(jax.tree.leaves(mask)):
                # So that no gradient of what is frozen is made and summed up.
                params = jax.tree.map(
                    lambda p, train: p if train else jax.lax.stop_gradient(p), params, mask
                )
            if options.drop_path:
                key = jax.random.fold_in(jax.random.key(options.seed), state.step)
                params = drop_paths(params, options.drop_path, key)
            loss = stage.loss(definition.bind(params), batch, frozen)
            return loss.total, loss

        gradient = jax.grad(total, has_aux=True)
        if accumulation == 1:
            grads, loss = gradient(state.params, batch)
        else:
            # Every micro-batch takes packs from all devices: the scanned axis is not a sharded one.
            micro = jax.tree.map(
                lambda a: a.reshape(-1, accumulation, *a.shape[1:]).swapaxes(0, 1), batch
            )
            shapes = jax.eval_shape(gradient, state.params, jax.tree.map(lambda a: a[0], micro))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

            def add(sums, part):
                return jax.tree.map(jnp.add, sums, gradient(state.params, part)), None

            (grads, loss), _ = jax.lax.scan(add, zeros, micro)
        weight = loss.weight + 1e-12
        grads = jax.tree.map(
            lambda g, train: g / weight if train else jnp.zeros_like(g), grads, mask
        )
        norm = optax.global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u, train: u if train else jnp.zeros_like(u), updates, mask)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss.total)
        params = optax.apply_updates(state.params, updates)
        averaged = ema.follow(state.averaged, params, options.ema, state.step)
        new = TrainState(state.step, params, opt_state, state.skipped, averaged)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new = dataclasses.replace(new, step=state.step + 1, skipped=state.skipped + ~finite)
        metrics = {
            "loss/total": loss.total / weight,
            "grad/norm": norm,
            "grad/skipped_steps": new.skipped,
        } | {f"grad/{name}": optax.global_norm(part) for name, part in grads.items()}
        return new, metrics | _reported(loss)

    return step


def make_validation_loss(
    definition: ModelDefinition, stage: Stage
) -> Callable[[Params, Params, Batch], Loss]:
    """The loss of one batch as a pure function of parameters and frozen parameters."""
    return lambda params, frozen, batch: stage.loss(definition.bind(params), batch, frozen)


def _reported(loss: Loss) -> dict[str, Array]:
    """What the stage reports: its sums, and its quotients divided."""
    return loss.sums | {
        name: total / jnp.maximum(weight, 1e-12) for name, (total, weight) in loss.means.items()
    }
