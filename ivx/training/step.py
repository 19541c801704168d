"""The training step: its state, the pure function, where everything lies on the mesh, the jit.

Read from top to bottom:

    TrainState         what a checkpoint holds besides the data position
    make_step          state, frozen parameters, batch -> new state, metrics: a pure function
    state_shardings    where the state lies
    jit_step           the step, jitted with those shardings, its state donated

`ivx.training.loop` and `ivx compile` run the same `jit_step`, so what is compiled ahead of time for
a pod is what runs there.
"""

import dataclasses
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import compiler, sharding
from ivx.stages.protocol import Loss, Stage, StageBatch
from ivx.training import ema
from ivx.training.drop_path import drop_paths
from ivx.training.parameter_groups import ALL, ParameterGroups, dotted

Metrics = dict[str, Float[Array, ""]]
Step = Callable[["TrainState", Params, StageBatch], tuple["TrainState", Metrics]]


@typing.no_type_check  # trees of shapes and of shardings have this type too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a checkpoint holds besides the data position.

    Attributes:
      step: steps taken.
      params: float32 master parameters, a nested dict.
      opt_state: optimizer state.
      skipped: steps with a non-finite gradient, which changed nothing.
      averaged: exponential moving average of the parameters; None if none is kept.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    skipped: Int[Array, ""]
    averaged: Params | None = None


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Options of a step; the defaults are a plain step.

    Attributes:
      accumulation: micro-batches per step.
      groups: which parameters train, among those of the stage.
      ema: decay of the moving average of the parameters; 0 keeps none.
      drop_path: probability that the last block of the vision tower is dropped in a step.
      seed: for what is drawn at random.
    """

    accumulation: int = 1
    groups: ParameterGroups = ALL
    ema: float = 0.0
    drop_path: float = 0.0
    seed: int = 0

    @property
    def averaged(self) -> bool:
        """Whether the state keeps a moving average."""
        return self.ema > 0


PLAIN = StepOptions()


def init_state(
    params: Params, optimizer: optax.GradientTransformation, averaged: bool = False
) -> TrainState:
    """The state before the first step; `averaged` if it keeps a moving average."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        zero, params, optimizer.init(params), jnp.zeros_like(zero), params if averaged else None
    )


def trainable(params: Params, stage: Stage, groups: ParameterGroups = ALL) -> Params:
    """True for each parameter that trains, False for each frozen one."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: (
            stage.trains(tuple(entry.key for entry in path)) and groups.trains(dotted(path))
        ),
        params,
    )


def make_step(
    definition: ModelDefinition,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    options: StepOptions = PLAIN,
) -> Step:
    """The training step as a pure function of state, the stage's frozen parameters and a batch.

    Numerator, denominator and gradient of the loss are summed over all micro-batches before the
    division, so their number changes memory and nothing else. A step with a non-finite gradient
    leaves parameters and optimizer unchanged and is counted.
    """

    def step(state: TrainState, frozen: Params, batch: StageBatch) -> tuple[TrainState, Metrics]:
        mask = trainable(state.params, stage, options.groups)

        def loss_of(params: Params, batch: StageBatch) -> tuple[Array, Loss]:
            if not all(jax.tree.leaves(mask)):
                # Otherwise gradients of frozen parameters would be computed and summed.
                params = jax.tree.map(
                    lambda p, trains: p if trains else jax.lax.stop_gradient(p), params, mask
                )
            if options.drop_path:
                key = jax.random.fold_in(jax.random.key(options.seed), state.step)
                params = drop_paths(params, options.drop_path, key)
            loss = stage.loss(definition.bind(params), batch, frozen)
            return loss.total, loss

        gradients, loss = _accumulate(
            jax.grad(loss_of, has_aux=True), state.params, batch, options.accumulation
        )
        weight = loss.weight + 1e-12
        gradients = jax.tree.map(
            lambda g, trains: g / weight if trains else jnp.zeros_like(g), gradients, mask
        )
        norm = optax.global_norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda u, trains: u if trains else jnp.zeros_like(u), updates, mask)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss.total)
        params = optax.apply_updates(state.params, updates)
        averaged = ema.update(state.averaged, params, options.ema, state.step)
        new = TrainState(state.step, params, opt_state, state.skipped, averaged)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new = dataclasses.replace(new, step=state.step + 1, skipped=state.skipped + ~finite)
        metrics = {
            "loss/total": loss.total / weight,
            "grad/norm": norm,
            "grad/skipped_steps": new.skipped,
        } | {f"grad/{name}": optax.global_norm(part) for name, part in gradients.items()}
        return new, metrics | _stage_metrics(loss)

    return step


def _accumulate(
    gradient: Callable[[Params, StageBatch], tuple[Params, Loss]],
    params: Params,
    batch: StageBatch,
    accumulation: int,
) -> tuple[Params, Loss]:
    """Gradient and loss summed over micro-batches."""
    if accumulation == 1:
        return gradient(params, batch)
    # Each micro-batch takes packs from all devices: the scanned axis is not a sharded one.
    micro = jax.tree.map(lambda a: a.reshape(-1, accumulation, *a.shape[1:]).swapaxes(0, 1), batch)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda a: a[0], micro))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(sums: tuple[Params, Loss], part: StageBatch) -> tuple[tuple[Params, Loss], None]:
        return jax.tree.map(jnp.add, sums, gradient(params, part)), None

    return jax.lax.scan(add, zeros, micro)[0]


def _stage_metrics(loss: Loss) -> Metrics:
    """The metrics of the stage: its sums as they are, its quotients divided."""
    return loss.sums | {
        name: total / jnp.maximum(weight, 1e-12) for name, (total, weight) in loss.means.items()
    }


def make_validation_loss(
    definition: ModelDefinition, stage: Stage
) -> Callable[[Params, Params, StageBatch], Loss]:
    """The loss of one batch as a pure function of parameters and frozen parameters."""
    return lambda params, frozen, batch: stage.loss(definition.bind(params), batch, frozen)


def state_shardings(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    averaged: bool = False,
) -> TrainState:
    """The sharding of each array: that of the parameter for moments and averages, else replicated.

    Raises:
      UserError: the mesh does not divide a parameter.
    """
    params = sharding.parameter_shardings(definition.abstract, mesh)
    whole = sharding.replicated(mesh)
    abstract = jax.eval_shape(optimizer.init, definition.abstract_params)
    moments = optax.tree_map_params(
        optimizer,
        lambda moment, place: moment if _is_frozen(moment) else place,
        abstract,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=_is_frozen,
    )
    return TrainState(whole, params, moments, whole, params if averaged else None)


def _is_frozen(moment: object) -> bool:
    """Whether this stands for the moment that a frozen parameter does not have."""
    return isinstance(moment, optax.MaskedNode)


def abstract_state(
    definition: ModelDefinition, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """Shapes and dtypes of a state, with its shardings and without arrays."""
    averaged = shardings.averaged is not None
    shapes = jax.eval_shape(lambda: init_state(definition.init(0), optimizer, averaged))
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        shapes,
        shardings,
    )


def jit_step(
    definition: ModelDefinition,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    mesh: Mesh,
    options: StepOptions = PLAIN,
) -> Step:
    """`make_step`, jitted over the mesh; the state passed in is donated."""
    return jax.jit(
        sharding.under_mesh(mesh, make_step(definition, stage, optimizer, options)),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
        compiler_options=compiler.options(mesh),
    )
