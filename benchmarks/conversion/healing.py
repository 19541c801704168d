"""Continued pretraining of a converted model until it is as good as its source."""

import dataclasses
from typing import Any

from ivx.models.definition import ModelDefinition


def heal(
    setting: Any, definition: ModelDefinition, params: Any, goal: float
) -> list[tuple[int, float]]:
    """Trains a converted model until its held-out loss reaches `goal`.

    Args:
      setting: `measure.Setting`; takes at most its `steps` steps.
      definition: of the converted model.
      params: to start from.
      goal: held-out loss, nats per token.

    Returns:
      Step and held-out loss, every five steps.
    """
    import jax

    from ivx import from_config
    from ivx.evaluation import held_out
    from ivx.parallel import batches, sharding
    from ivx.stages.language_model import LanguageModelStage
    from ivx.training.optimizer import make_optimizer
    from ivx.training.step import init_state, make_step

    stage = LanguageModelStage(lambda first: iter(()), [], "token")
    spec = dataclasses.replace(
        from_config.training.optimizer_spec(setting.config),
        learning_rate=2.5e-4,
        floor=2.5e-4,
        warmup=0.0,
        steps=setting.steps,
        weight_decay=0.05,
    )
    optimizer = make_optimizer(spec)
    step = jax.jit(
        sharding.under_mesh(setting.mesh, make_step(definition, stage, optimizer)),
        donate_argnums=0,
    )
    state = init_state(jax.tree.map(jax.numpy.array, params), optimizer)
    measure = held_out.measure(definition.bind, setting.held, setting.mesh, "token")
    names = tuple(setting.config.data.train)
    _, opened = from_config.data.openable_batches(setting.config, names, setting.steps)
    losses = [(0, measure(state.params))]
    for count, batch in enumerate(opened(0), 1):
        if losses[-1][1] <= goal:
            break
        state, _ = step(state, {}, batches.put_batch(batch, setting.mesh))
        if count % 5 == 0 or count == setting.steps:
            losses.append((count, measure(state.params)))
    return losses


def reached(losses: list[tuple[int, float]], goal: float) -> int | None:
    """The first step at which the loss is at most `goal`; None if there is none."""
    return next((steps for steps, loss in losses if loss <= goal), None)
