"""The training loop."""

import jax
import jax.numpy as jnp
import optax

from ivx.stages.protocol import Loss
from ivx.training import loop
from ivx.training.step import init_state
from tests import toy


def test_validation_leaves_at_most_two_batches_waiting(monkeypatch):
    """XLA:CPU deadlocks if a device has more than 32 computations with an all-reduce waiting."""
    started, finished, most = [], [], 0

    def validation_loss(params, frozen, batch):
        nonlocal most
        started.append(batch)
        most = max(most, len(started) - len(finished))
        return Loss(jnp.float32(batch.x.sum()), jnp.float32(2), {}, {})

    monkeypatch.setattr(jax, "block_until_ready", finished.extend)
    state = init_state({"kernel": jnp.ones(2)}, optax.sgd(0.1))
    metrics = loop._validate(validation_loss, state, {}, [toy.batch_of(n) for n in range(40)])
    assert metrics and len(started) == 40 and most == 2
