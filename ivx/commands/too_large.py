"""What to do about a step that does not fit into memory: its largest buffers, and the knobs.

For `ivx compile` and, on a pod, for `ivx train`: the compiler's refusal is the same.
"""

import contextlib
import re
from collections.abc import Iterator

from ivx.errors import UserError

# How XLA says that a device's memory does not do. Storage and network run out of other things, also
# with RESOURCE_EXHAUSTED, and a kernel that runs out of a core's own memory is no matter of knobs.
_WORDS = re.compile(
    r"Ran out of memory (in memory space|on) hbm"  # libtpu, compiling
    r"|Attempting to (allocate|reserve) .{0,200}That was not possible"  # libtpu, running
    r"|Out of memory (while trying to allocate|allocating) "  # XLA's allocators
    r"|Failed to allocate request for ",
    re.IGNORECASE | re.DOTALL,
)
_MOST = 6


def largest(said: str) -> list[str]:
    """The largest buffers that a refusal names, each once, with how often it is there."""
    found: dict[str, int] = {}
    for part in re.split(r"\n\s*={5,}|\n\s*\d+\. (?=Size)", said):
        size = re.search(r"Size: ([\d.]+[KMG])", part)
        shape = re.search(r"Shape: (\S+?)(?:\{|\s|$)", part)
        if size and shape:
            operator = re.search(r'op_name="([^"]*)"', part)
            what = operator[1][-100:] if operator else "an unnamed operation"
            one = f"{size[1]} {shape[1]} of {what}"
            found[one] = found.get(one, 0) + 1
    return [f"{one}{f', {times} times' if times > 1 else ''}" for one, times in found.items()][
        :_MOST
    ]


def knobs(config, mesh: dict[str, int]) -> list[str]:
    """What makes a step smaller, the cheapest first; what is named divides evenly.

    Args:
      config: of the step.
      mesh: sizes of its axes; those that are not there are 1.
    """
    from ivx.build import stored

    sizes = {"replica": 1, "fsdp": 1, "tensor": 1, "context": 1} | mesh
    text = stored.model_spec(config).text
    if config.stage.name == "convert":
        found = _of_a_pass(config, sizes)
    else:
        found = [*_of_packs(config, sizes), *_of_layers(config), *_of_heads(config, sizes, text)]
    return [*found, "a larger slice, or a chip with more memory"]


def _of_a_pass(config, sizes: dict[str, int]) -> list[str]:
    """Of statistics, which keep nothing for a backward pass and are summed over whole packs."""
    packs = config.data.batch_packs
    each = packs // (sizes["replica"] * sizes["fsdp"])
    if each < 2:
        return []
    part = _divisor(each)
    return [f"data.batch_packs = {packs // part}: {_share(part)} the activations, {part} times as"
            " many passes"]  # fmt: skip


def _of_packs(config, sizes: dict[str, int]) -> list[str]:
    """Fewer packs of a device at a time, then less of each."""
    found, steps, fsdp = [], config.optim.accumulation, sizes["fsdp"]
    if sizes["replica"] > 1:
        found.append("mesh.replica lower and mesh.fsdp higher: the state is split further")
    each = config.data.batch_packs // (steps * sizes["replica"] * fsdp)
    if each > 1:
        part = _divisor(each)
        found.append(
            f"optim.accumulation = {part * steps}: {_share(part)} the activations,"
            f" parameters are gathered {part} times as often"
        )
    elif fsdp > 1:
        part = _divisor(fsdp)
        context = part * sizes["context"]
        # A device has two runs of a pack's tokens, an early and a late one.
        if config.data.pack_tokens % (2 * context) == 0:
            found.append(
                f"mesh.fsdp = {fsdp // part}, mesh.context = {context} and optim.accumulation ="
                f" {part * steps}: {_share(part)} the activations of a layer, parameters are"
                f" gathered {part} times as often, keys and values of a pack stay as large"
            )
    return found


def _of_layers(config) -> list[str]:
    """Less kept of every layer."""
    found, remat = [], config.model.remat
    if remat in ("none", "dots", "all_attention"):
        found.append("model.remat = attention: attention of the vision tower is run twice")
    # Of grouped attention there is no latent to keep.
    if remat in ("none", "dots", "all_attention", "attention") and config.model.attention != "gqa":
        found.append("model.remat = latent: attention is run twice, what it gave is not kept")
    if remat not in ("layer", "offload"):
        found.append("model.remat = layer: only inputs of layers are kept, a forward pass more")
    if remat != "offload":
        found.append(
            "model.remat = offload: as layer, with those inputs in the memory of the host,"
            " at the pace of its link"
        )
    return found


def _of_heads(config, sizes: dict[str, int], text) -> list[str]:
    """Layers and heads split over devices that now split packs."""
    from ivx.aot import arithmetic

    for axis in ("context", "fsdp"):
        if sizes[axis] == 1:
            continue
        part = _divisor(sizes[axis])
        tensor = part * sizes["tensor"]
        if not arithmetic.splits(text, tensor):
            continue
        more = f" and optim.accumulation = {part * config.optim.accumulation}"
        return [
            f"mesh.tensor = {tensor}, mesh.{axis} = {sizes[axis] // part}"
            f"{more if axis == 'fsdp' else ''}: {_share(part)} the weights that are gathered for a"
            " layer, two exchanges of activations a layer"
        ]
    return []


def _divisor(number: int) -> int:
    """The smallest above 1."""
    return next(one for one in range(2, number + 1) if number % one == 0)


def _share(part: int) -> str:
    return "half" if part == 2 else f"1/{part} of"


def sentence(config, mesh: dict[str, int], said: str) -> str:
    """All of it in one."""
    buffers = "; ".join(largest(said)) or "none that the compiler names"
    return (
        "a program of this run does not fit into the memory of a device; the largest buffers:"
        f" {buffers}; what would make its step smaller, the cheapest first:"
        f" {'; '.join(knobs(config, mesh))}"
    )


def is_of_memory(said: str) -> bool:
    """Whether an error of JAX says that a device's memory is too small for a program."""
    return "RESOURCE_EXHAUSTED" in said and bool(_WORDS.search(said))


@contextlib.contextmanager
def told(config, mesh: dict[str, int]) -> Iterator[None]:
    """Within it a program that does not fit is an error that says what would.

    Raises:
      UserError: instead of what JAX raises then; anything else passes.
    """
    try:
        yield
    except Exception as error:
        if (said := explained(config, mesh, error)) is error:
            raise
        raise said from error


def explained(config, mesh: dict[str, int], error: BaseException) -> BaseException:
    """Of a program that did not fit what would, as a UserError; any other error as it is."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError) and is_of_memory(str(error)):
        return UserError(sentence(config, mesh, str(error)))
    return error
