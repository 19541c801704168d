"""What to do about a step that does not fit into memory: its largest buffers, and the knobs.

For `ivx compile` and, on a pod, for `ivx train`: the compiler's refusal is the same.
"""

import contextlib
import re
from collections.abc import Iterator

from ivx.errors import UserError

# How a refusal of the compiler, or of the allocator, begins.
_MARK = "RESOURCE_EXHAUSTED"
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
    """What makes a step smaller, the cheapest first."""
    found, optim, remat = [], config.optim, config.model.remat
    share = mesh.get("replica", 1) * mesh.get("fsdp", 1)
    context = mesh.get("context", 1)
    if mesh.get("replica", 1) > 1:
        found.append("mesh.replica lower and mesh.fsdp higher: the state is split further")
    if config.data.batch_packs // optim.accumulation > share:
        found.append(
            f"optim.accumulation = {2 * optim.accumulation}: half the activations,"
            " parameters are gathered twice as often"
        )
    elif mesh.get("fsdp", 1) > 1:
        found.append(
            f"mesh.fsdp = {mesh['fsdp'] // 2}, mesh.context = {2 * context} and"
            f" optim.accumulation = {2 * optim.accumulation}: half the activations of a layer,"
            " parameters are gathered twice as often, keys and values of a pack stay as large"
        )
    if remat in ("none", "dots", "attention"):
        found.append("model.remat = latent: attention is run twice, what it gave is not kept")
    if remat != "layer" and remat != "offload":
        found.append("model.remat = layer: only inputs of layers are kept, a forward pass more")
    if remat != "offload":
        found.append(
            "model.remat = offload: as layer, with those inputs in the memory of the host,"
            " at the pace of its link"
        )
    found += [
        f"mesh.tensor = {2 * mesh.get('tensor', 1)} instead of half of another axis: half the"
        " heads and features a device, two exchanges of activations a layer",
        "a larger slice, or a chip with more memory",
    ]
    return found


def sentence(config, mesh: dict[str, int], said: str) -> str:
    """All of it in one."""
    buffers = "; ".join(largest(said)) or "none that the compiler names"
    return (
        f"the step does not fit into the memory of a device; the largest buffers: {buffers}; what"
        f" would make it smaller, the cheapest first: {'; '.join(knobs(config, mesh))}"
    )


@contextlib.contextmanager
def told(config, mesh: dict[str, int]) -> Iterator[None]:
    """Within it a program that does not fit is an error that says what would.

    Raises:
      UserError: instead of what JAX raises then.
    """
    try:
        yield
    except RuntimeError as error:
        if _MARK not in str(error):
            raise
        raise UserError(sentence(config, mesh, str(error))) from error
