"""How a step is compiled, and what its estimated time assumes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CompileOptions:
    """Options of `ivx compile` and `python -m benchmarks pods`.

    Attributes:
      timeout: seconds that one compilation may take.
      pace: pace of Pallas kernels relative to their static schedules.
      slice_patches: patches of a slice, for FLOPs.
      teacher: preset of the teacher.
      hlo: file for the text of the compiled program; empty writes none.
      part: a name of `ivx.from_config.programs.PARTS`; empty for the first.
    """

    timeout: float
    pace: float
    slice_patches: int
    teacher: str
    hlo: str = ""
    part: str = ""
