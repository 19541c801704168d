"""What is compiled ahead of time to look at a kernel: one call of an op, in shapes and types."""

import dataclasses
from collections.abc import Callable, Mapping

import jax

# Generations of TPU that kernels are compiled for; `ivx.aot.chips` has their numbers.
CHIPS = ("v5e", "v5p", "v6e", "tpu7x")


@dataclasses.dataclass(frozen=True)
class KernelCase:
    """One call of an op, and what one hot step of it does.

    A hot step is one turn of the innermost loop in which a kernel multiplies. It is what the static
    schedule tells of, so that its own work is stated beside that of the whole call.

    Attributes:
      name: of the case, such as "latent_decode-bf16-rows8-32768".
      op: the op's folder.
      build: makes the function to jit; imports what it needs, and takes the way of a TPU.
      arguments: shapes and dtypes that the function is called with.
      flops: useful FLOPs of a call.
      hbm_bytes: bytes that a call has to move between HBM and the core.
      per_block: what a hot step does, in words.
      block_flops: useful FLOPs of a hot step.
      block_bytes: HBM bytes of a hot step.
      chips: generations that it is compiled for.
      kernels: names of the Pallas kernels whose hot steps together are the hot step of the case;
        empty for all of them. A backward pass runs the forward kernel too, say.
      wanted: the goal that was set for a hot step, none or one of {"useful": the least share of
        the peak} and {"of_hbm": the most that its schedule takes, over its HBM time}.
    """

    name: str
    op: str
    build: Callable[[], Callable]
    arguments: tuple[jax.ShapeDtypeStruct, ...]
    flops: float
    hbm_bytes: float
    per_block: str
    block_flops: float
    block_bytes: float
    chips: tuple[str, ...] = CHIPS
    kernels: tuple[str, ...] = ()
    wanted: Mapping[str, float] = dataclasses.field(default_factory=dict)
