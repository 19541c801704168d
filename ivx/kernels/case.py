"""A kernel benchmark case: one call of an op with fixed shapes, compiled ahead of time."""

import dataclasses
from collections.abc import Callable, Mapping

import jax

# TPU generations that kernels are compiled for. `ivx.aot.chips` holds their specifications.
CHIPS = ("v5e", "v5p", "v6e", "tpu7x")


@dataclasses.dataclass(frozen=True)
class KernelCase:
    """One call of an op, with the work of the whole call and of one hot step.

    A hot step is one iteration of the innermost loop that contains matrix multiplications. The
    static schedule describes that loop, so its work is stated separately from the call's.

    Attributes:
      name: unique name, such as "latent_decode-bf16-rows8-32768".
      op: folder name of the op.
      build: returns the function to jit. It imports what it needs and forces the TPU kernel.
      arguments: shapes and dtypes of the function's arguments.
      flops: useful FLOPs of a call.
      hbm_bytes: bytes that a call must move between HBM and the core.
      per_block: description of a hot step.
      block_flops: useful FLOPs of a hot step.
      block_bytes: HBM bytes of a hot step.
      chips: TPU generations to compile for.
      kernels: names of the Pallas kernels that together form the hot step; empty means all. A
        backward pass also runs the forward kernel, for example.
      wanted: target for a hot step, empty or one of {"useful": minimum fraction of peak} and
        {"of_hbm": maximum schedule time divided by HBM time}.
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
