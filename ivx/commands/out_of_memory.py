"""Advice for a program that does not fit in device memory: its largest buffers, and what to change.

`ivx compile` and `ivx train` share it, since the compiler reports the error in the same way.
"""

import contextlib
import re
from collections.abc import Iterator

import ml_collections

from ivx.errors import UserError
from ivx.models.spec import TextSpec

# How XLA reports that a program does not fit in device memory. Storage and network also report
# RESOURCE_EXHAUSTED, and so does a kernel that exceeds VMEM, which no config key changes.
_MESSAGES = re.compile(
    r"Ran out of memory (in memory space|on) hbm"  # libtpu, compiling
    r"|Attempting to (allocate|reserve) .{0,200}That was not possible"  # libtpu, running
    r"|Out of memory (while trying to allocate|allocating) "  # XLA's allocators
    r"|Failed to allocate request for ",
    re.IGNORECASE | re.DOTALL,
)
_MAX_BUFFERS = 6


def largest(message: str) -> list[str]:
    """The largest buffers of an XLA error, each once, with its count."""
    counts: dict[str, int] = {}
    for part in re.split(r"\n\s*={5,}|\n\s*\d+\. (?=Size)", message):
        size = re.search(r"Size: ([\d.]+[KMG])", part)
        shape = re.search(r"Shape: (\S+?)(?:\{|\s|$)", part)
        if size and shape:
            operator = re.search(r'op_name="([^"]*)"', part)
            name = operator[1][-100:] if operator else "an unnamed operation"
            buffer = f"{size[1]} {shape[1]} of {name}"
            counts[buffer] = counts.get(buffer, 0) + 1
    buffers = [f"{name}{f', {count} times' if count > 1 else ''}" for name, count in counts.items()]
    return buffers[:_MAX_BUFFERS]


def knobs(config: ml_collections.ConfigDict, mesh: dict[str, int]) -> list[str]:
    """Changes that make a step smaller, the cheapest first; all sizes divide evenly.

    Args:
      config: config of the step.
      mesh: sizes of the mesh axes; missing ones are 1.
    """
    from ivx import from_config

    sizes = {"replica": 1, "fsdp": 1, "tensor": 1, "context": 1} | mesh
    text = from_config.model.spec_of(config).text
    if config.stage.name == "convert":
        changes = _statistics_knobs(config, sizes)
    else:
        changes = [
            *_pack_knobs(config, sizes),
            *_remat_knobs(config),
            *_tensor_knobs(config, sizes, text),
        ]
    return [*changes, "a larger slice, or a chip with more memory"]


def _statistics_knobs(config: ml_collections.ConfigDict, sizes: dict[str, int]) -> list[str]:
    """For the statistics pass, which has no backward pass and sums over full packs."""
    packs = config.data.batch_packs
    local_packs = packs // (sizes["replica"] * sizes["fsdp"])
    if local_packs < 2:
        return []
    factor = _divisor(local_packs)
    return [
        f"data.batch_packs = {packs // factor}: {_share(factor)} the activations,"
        f" {factor} times as many passes"
    ]


def _pack_knobs(config: ml_collections.ConfigDict, sizes: dict[str, int]) -> list[str]:
    """Fewer packs per device at a time, or a smaller part of each pack."""
    changes, steps, fsdp = [], config.optim.accumulation, sizes["fsdp"]
    if sizes["replica"] > 1:
        changes.append("mesh.replica lower and mesh.fsdp higher: shards the state further")
    local_packs = config.data.batch_packs // (steps * sizes["replica"] * fsdp)
    if local_packs > 1:
        factor = _divisor(local_packs)
        changes.append(
            f"optim.accumulation = {factor * steps}: {_share(factor)} the activations,"
            f" {factor} times as many parameter gathers"
        )
    elif fsdp > 1:
        factor = _divisor(fsdp)
        context = factor * sizes["context"]
        # A device holds two chunks of a pack's tokens, an early and a late one.
        if config.data.pack_tokens % (2 * context) == 0:
            changes.append(
                f"mesh.fsdp = {fsdp // factor}, mesh.context = {context} and optim.accumulation ="
                f" {factor * steps}: {_share(factor)} the activations of a layer, {factor} times as"
                " many parameter gathers, keys and values of a pack as large as before"
            )
    return changes


def _remat_knobs(config: ml_collections.ConfigDict) -> list[str]:
    """Remat policies that keep less of every layer."""
    changes, remat = [], config.model.remat
    if remat in ("none", "dots", "all_attention"):
        changes.append("model.remat = attention: recomputes attention of the vision tower")
    # Grouped attention has no latent to keep.
    if remat in ("none", "dots", "all_attention", "attention") and config.model.attention != "gqa":
        changes.append("model.remat = latent: recomputes attention, whose output is not kept")
    if remat not in ("layer", "offload"):
        changes.append("model.remat = layer: keeps only layer inputs; one more forward pass")
    if remat != "offload":
        changes.append(
            "model.remat = offload: as layer, with layer inputs in host memory, at the speed of"
            " the host link"
        )
    return changes


def _tensor_knobs(
    config: ml_collections.ConfigDict, sizes: dict[str, int], text: TextSpec
) -> list[str]:
    """Tensor parallelism over devices that now shard packs or tokens."""
    from ivx.aot import arithmetic

    for axis in ("context", "fsdp"):
        if sizes[axis] == 1:
            continue
        factor = _divisor(sizes[axis])
        tensor = factor * sizes["tensor"]
        if not arithmetic.splits(text, tensor):
            continue
        more = f" and optim.accumulation = {factor * config.optim.accumulation}"
        return [
            f"mesh.tensor = {tensor}, mesh.{axis} = {sizes[axis] // factor}"
            f"{more if axis == 'fsdp' else ''}: {_share(factor)} the weights gathered for a layer,"
            " two activation exchanges per layer"
        ]
    return []


def _divisor(number: int) -> int:
    """The smallest divisor above 1."""
    return next(divisor for divisor in range(2, number + 1) if number % divisor == 0)


def _share(factor: int) -> str:
    return "half" if factor == 2 else f"1/{factor} of"


def sentence(config: ml_collections.ConfigDict, mesh: dict[str, int], message: str) -> str:
    """Buffers and changes in one sentence."""
    buffers = "; ".join(largest(message)) or "none that the compiler names"
    return (
        f"the program does not fit in device memory; the largest buffers: {buffers};"
        f" changes that make it smaller, the cheapest first: {'; '.join(knobs(config, mesh))}"
    )


def is_of_memory(message: str) -> bool:
    """Whether a JAX error reports that a program does not fit in device memory."""
    return "RESOURCE_EXHAUSTED" in message and bool(_MESSAGES.search(message))


@contextlib.contextmanager
def explaining(config: ml_collections.ConfigDict, mesh: dict[str, int]) -> Iterator[None]:
    """Turns an out-of-memory error inside the context into advice; other errors pass.

    Raises:
      UserError: a program does not fit in device memory.
    """
    try:
        yield
    except Exception as error:
        if (explanation := explain(config, mesh, error)) is error:
            raise
        raise explanation from error


def explain(
    config: ml_collections.ConfigDict, mesh: dict[str, int], error: BaseException
) -> BaseException:
    """A UserError with advice for an out-of-memory error; any other error unchanged."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError) and is_of_memory(str(error)):
        return UserError(sentence(config, mesh, str(error)))
    return error
