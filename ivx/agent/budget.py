"""What an episode may cost.

The model is not told of it but where the texts say so: before its last step, and when it asks for
frames and none are left.
"""

import dataclasses

from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits of an episode. The step at which one is reached is the last, and has to finish.

    Attributes:
      steps: turns of the model.
      frames: frames in the context, those of the overview among them.
      tokens: of the context; what a tool shows may exceed it once.
      seconds: of the clock; a step that has begun is not cut off.
    """

    steps: int = 8
    frames: int = 64
    tokens: int = 16384
    seconds: float = 600.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(
                    f"a budget of {getattr(self, field.name)} {field.name};"
                    f" an agent needs a positive number of {field.name}"
                )

    def reached(self, step: int, tokens: int, seconds: float) -> str:
        """The limit that makes `step` the last one; empty if none does."""
        if step >= self.steps:
            return "steps"
        if tokens >= self.tokens:
            return "tokens"
        return "seconds" if seconds >= self.seconds else ""
