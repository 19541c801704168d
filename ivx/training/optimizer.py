"""AdamW with a learning-rate schedule and clipping by global norm, as in the released trainer.

    W          = int(warmup * steps)
    rate(step) = peak * step / W                                                    step < W
    cosine       floor + (peak - floor) (1 + cos(pi (step - W) / (steps - W))) / 2  afterwards
    linear       peak + (floor - peak) (step - W) / (steps - W)                     afterwards
    constant     peak                                                               afterwards

With warm-up, step 0 has rate 0; the floor is reached after the last step. Weight decay applies to
every parameter.
"""

import dataclasses

import optax

from ivx.errors import UserError
from ivx.training.parameter_groups import ALL, ParameterGroups


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """Hyperparameters of AdamW.

    `warmup` is a fraction of `steps`; `schedule` is cosine, linear or constant.
    """

    learning_rate: float
    floor: float
    warmup: float
    steps: int
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip: float
    schedule: str = "cosine"


def learning_rate(spec: OptimizerSpec) -> optax.Schedule:
    """The learning rate as a function of the step.

    Raises:
      UserError: warm-up takes all steps.
    """
    warmup = int(spec.warmup * spec.steps)
    rest = spec.steps - warmup
    if rest < 1:
        raise UserError(
            f"warm-up takes all {spec.steps} steps; lower optim.warmup or raise run.steps"
        )
    if spec.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else spec.learning_rate,
            spec.learning_rate,
            warmup,
            spec.steps,
            spec.floor,
        )
    end = spec.floor if spec.schedule == "linear" else spec.learning_rate
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, spec.learning_rate, warmup),
            optax.linear_schedule(spec.learning_rate, end, rest),
        ],
        [warmup],
    )


def make_optimizer(
    spec: OptimizerSpec, groups: ParameterGroups = ALL
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW; only trained parameters have moments."""
    return optax.chain(
        optax.clip_by_global_norm(spec.clip),
        groups.limit(
            optax.adamw(
                learning_rate(spec), spec.b1, spec.b2, spec.eps, weight_decay=spec.weight_decay
            )
        ),
    )
