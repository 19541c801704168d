"""The jitted step and the layout of its state, without any array: for the loop and for compiling.

What the loop runs and what is compiled ahead of time for a pod is the same function, with the same
shardings.
"""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from ivx.models.definition import ModelDefinition
from ivx.parallel import ambient, compiler, rules
from ivx.stages.protocol import Stage
from ivx.training.state import USUAL, StepOptions, TrainState, init_state, make_step


def state_shardings(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    averaged: bool = False,
) -> TrainState:
    """Parameters by the rules, moments and running means like them, counters on every device."""
    params = rules.parameter_shardings(definition.abstract, mesh)
    whole = rules.replicated(mesh)
    abstract = jax.eval_shape(optimizer.init, definition.abstract_params)
    moments = optax.tree_map_params(
        optimizer,
        lambda moment, sharding: moment if _is_none(moment) else sharding,
        abstract,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=_is_none,
    )
    return TrainState(whole, params, moments, whole, params if averaged else None)


def _is_none(moment) -> bool:
    """Whether it stands for a moment that a frozen parameter does not have."""
    return isinstance(moment, optax.MaskedNode)


def abstract_state(
    definition: ModelDefinition, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """Shapes of a state with their shardings."""
    averaged = shardings.averaged is not None
    shapes = jax.eval_shape(lambda: init_state(definition.init(0), optimizer, averaged))
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def jit_step(
    definition: ModelDefinition,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    shardings: TrainState,
    mesh: Mesh,
    options: StepOptions = USUAL,
) -> Callable:
    """The training step as `make_step` has it, jitted: the state given is used up."""
    return jax.jit(
        ambient.under(mesh, make_step(definition, stage, optimizer, accumulation, options)),
        donate_argnums=0,
        out_shardings=(shardings, rules.replicated(mesh)),
        compiler_options=compiler.options(mesh),
    )
