"""AdamW with warm-up, cosine and clipping, as the released trainer has it.

    W          = int(warmup * steps)
    rate(step) = peak * step / W                                                    step < W
               = floor + (peak - floor) (1 + cos(pi (step - W) / (steps - W))) / 2  afterwards

Step 0 has rate 0; the floor is reached after the last step. Weight decay falls on every parameter.
"""

import dataclasses
import math

import jax.numpy as jnp
import optax

from ivx.errors import UserError
from ivx.training.parts import ALL, Parts


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """AdamW's numbers; `warmup` is a share of `steps`."""

    learning_rate: float
    floor: float
    warmup: float
    steps: int
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip: float


def learning_rate(spec: OptimizerSpec) -> optax.Schedule:
    """The rate as a function of the step.

    Raises:
      UserError: no step is left after warm-up.
    """
    warmup = int(spec.warmup * spec.steps)
    rest = spec.steps - warmup
    if rest < 1:
        raise UserError(
            f"warm-up takes all {spec.steps} steps; lower optim.warmup or raise run.steps"
        )

    def rate(step):
        rising = spec.learning_rate * step / max(warmup, 1)
        phase = math.pi * jnp.clip((step - warmup) / rest, 0, 1)
        falling = spec.floor + (spec.learning_rate - spec.floor) * (1 + jnp.cos(phase)) / 2
        return jnp.where(step < warmup, rising, falling)

    return rate


def make_optimizer(spec: OptimizerSpec, parts: Parts = ALL) -> optax.GradientTransformation:
    """Clips by global norm, then AdamW on the schedule; moments for what trains only."""
    return optax.chain(
        optax.clip_by_global_norm(spec.clip),
        parts.limit(
            optax.adamw(
                learning_rate(spec), spec.b1, spec.b2, spec.eps, weight_decay=spec.weight_decay
            )
        ),
    )
