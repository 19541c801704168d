"""How long a converted model trains until it is as good as its source."""

import dataclasses


def heal(setting, definition, params, goal: float) -> list[tuple[int, float]]:
    """Steps of continued pretraining and the held-out loss after them, every five until `goal`.

    Args:
      setting: of the bench; at most its `steps` are taken.
      definition: of the converted model.
      params: to begin with.
      goal: held-out loss at which it is healed, nats a token.
    """
    import jax

    from ivx import build
    from ivx.evaluation import held_out
    from ivx.parallel import ambient, rules
    from ivx.stages.language_model import LanguageModelStage
    from ivx.training.optimizer import make_optimizer
    from ivx.training.state import init_state, make_step

    stage = LanguageModelStage(lambda first: iter(()), [], "token")
    spec = dataclasses.replace(
        build.optimizer_spec(setting.config),
        learning_rate=2.5e-4,
        floor=2.5e-4,
        warmup=0.0,
        steps=setting.steps,
        weight_decay=0.05,
    )
    optimizer = make_optimizer(spec)
    step = jax.jit(
        ambient.under(setting.mesh, make_step(definition, stage, optimizer, 1)), donate_argnums=0
    )
    state = init_state(jax.tree.map(jax.numpy.array, params), optimizer)
    measure = held_out.measure(definition.bind, setting.held, setting.mesh, "token")
    names = tuple(setting.config.data.train)
    _, opened = build.openable_batches(setting.config, names, setting.steps)
    losses = [(0, measure(state.params))]
    for number, batch in enumerate(opened(0), 1):
        if losses[-1][1] <= goal:
            break
        state, _ = step(state, {}, rules.put_batch(batch, setting.mesh))
        if number % 5 == 0 or number == setting.steps:
            losses.append((number, measure(state.params)))
    return losses


def reached(losses: list[tuple[int, float]], goal: float) -> int | None:
    """Steps until the loss was at `goal`; None: not within them."""
    return next((steps for steps, loss in losses if loss <= goal), None)
