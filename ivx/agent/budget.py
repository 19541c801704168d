"""The budget of an episode.

The model is told about it only before its last step, and when it requests frames and none are left.
"""

import dataclasses

from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits of an episode; the step that reaches one is the last.

    Attributes:
      steps: turns of the model.
      frames: frames in the context, including the overview.
      tokens: of the context; the last tool result may exceed it.
      seconds: wall time; a step in progress is not interrupted.
    """

    steps: int = 8
    frames: int = 64
    tokens: int = 16384
    seconds: float = 600.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(
                    f"the budget of {field.name} is {getattr(self, field.name)};"
                    " it must be positive"
                )

    def reached(self, step: int, tokens: int, seconds: float) -> str:
        """Name of the limit that makes `step` the last one; empty if there is none."""
        if step >= self.steps:
            return "steps"
        if tokens >= self.tokens:
            return "tokens"
        return "seconds" if seconds >= self.seconds else ""
