"""The options of a conversion, one for each approximation."""

import dataclasses

from ivx.conversion import rotation, weighting

NORMS = ("affine", "fold", "drop")


@dataclasses.dataclass(frozen=True)
class Method:
    """The options of a conversion.

    Attributes:
      norm: what replaces the QK-norm, an option of `ivx.conversion.qk_norm`.
      ridge: ridge of the affine fits, as a share of the mean diagonal.
      rotation: how positions are gathered in one head, a kind of `ivx.conversion.rotation`.
      mean_rotation: whether the mean rotation over attended keys replaces the rope of the other
        heads (`ivx.conversion.mean_rotation`); if not, that rope is dropped.
      weighting: metric of the compression, a kind of `ivx.conversion.weighting`.
      balance: factor on the key-value ratio that the weighting computes.
      mean_rank: mean rank over layers, allocated by `ivx.conversion.compression.allocate_ranks`;
        0 gives every layer the rank of the model.
      sequential: whether each layer is fitted on the outputs of the converted layers below it.
      fit_output: whether o_proj is refitted to the attention outputs of the source.
    """

    norm: str = "affine"
    ridge: float = 1e-3
    rotation: str = "complex"
    mean_rotation: bool = False
    weighting: str = "balanced"
    balance: float = 1.0
    mean_rank: int = 0
    sequential: bool = False
    fit_output: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("norm", NORMS),
            ("rotation", rotation.KINDS),
            ("weighting", weighting.KINDS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )
