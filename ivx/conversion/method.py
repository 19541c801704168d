"""How a conversion is done: one choice for each of its approximations."""

import dataclasses

from ivx.conversion import rotation, weighting

NORMS = ("affine", "fold", "drop")
TURNS = ("none", "mean")


@dataclasses.dataclass(frozen=True)
class Method:
    """The choices of a conversion.

    Attributes:
      norm: what stands for the QK-norm: `affine` and `fold`, files of these names, or `drop`, which
        keeps its weights and leaves the division out.
      ridge: of the affine fit, as a share of the mean diagonal.
      rotation: how positions are gathered in one head, a kind of `ivx.conversion.rotation`.
      turn: what stands for the rope of the other heads: none, or the mean turn of what is attended
        to, see `ivx.conversion.turns`.
      weighting: what is near in the compression, a kind of `ivx.conversion.weighting`.
      balance: what keys are divided by against values, times what the weighting says.
      mean_rank: of all layers, allotted by `ivx.conversion.ranks`; 0: all have the model's.
      sequential: whether each layer is fitted to the converted ones below it.
      polish: whether o_proj is fitted to the source's attention.
    """

    norm: str = "affine"
    ridge: float = 1e-3
    rotation: str = "complex"
    turn: str = "none"
    weighting: str = "balanced"
    balance: float = 1.0
    mean_rank: int = 0
    sequential: bool = False
    polish: bool = False

    def __post_init__(self):
        for name, allowed in (
            ("norm", NORMS),
            ("rotation", rotation.KINDS),
            ("turn", TURNS),
            ("weighting", weighting.KINDS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )


# The pipeline of TransMLA with the norm's weights kept: what others would do first.
TRANSMLA = Method(norm="fold", rotation="real", weighting="balanced")
