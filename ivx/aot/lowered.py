"""A digest of a lowered program: what the compiler gets, without where and how it was written.

For one topology, programs with the same digest compile to the same memory plan, collectives and
kernels. Left out:

    names          of functions, values, arguments and results, since they come from Python names
    locations      of operations in Pallas kernels, which are modules of their own in bytecode
    float scalars  operations on single numbers, such as a learning-rate schedule: they change
                   results, but no figure that is read from the compiled program

So moving, renaming or reformatting sources changes no digest. The name of a Pallas kernel, which
`pallas_call` takes as `name`, is kept.
"""

import base64
import collections
import hashlib
import json
import re
from collections.abc import Mapping

from jaxlib.mlir import ir
from jaxlib.mosaic.python import tpu

# A kernel within the quoted JSON that configures its call.
_KERNEL = re.compile(r"\\22body\\22: \\22([A-Za-z0-9+/=]+)\\22")
# Attributes that hold Python names.
_NAMES = re.compile(r'(?:jax\.(?:result|arg)_info|mhlo\.frontend_attributes_name) = "[^"]*"(?:, )?')
_MODULE = re.compile(r"^module @(?:\"[^\"]+\"|[\w.$-]+)", re.M)
_FUNCTION = re.compile(r"^  func\.func (?:public |private )?@(\"[^\"]+\"|[\w.$-]+)\(", re.M)
_SYMBOL = re.compile(r"@(\"[^\"]+\"|[\w.$-]+)")
_VALUE = re.compile(r"%[\w]+")
# A one-line operation with a result.
_OPERATION = re.compile(r"^\s*(%\w+)(?::\d+)? = ")
_TENSOR = re.compile(r"tensor<([^<>]*)>")
_SCALAR_FLOAT = re.compile(r"(?:f16|bf16|f32|f64)$")


def digest(text: str, options: Mapping[str, str]) -> str:
    """Digest of a program and its compiler options.

    Args:
      text: StableHLO, as `jax.stages.Lowered.as_text` prints it.
      options: compiler options by name.
    """
    whole = canonical(text) + json.dumps(dict(options), sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def canonical(text: str) -> str:
    """The program with its kernels as text, without names and without float scalars.

    Functions are numbered in the order of their first call; functions that nothing calls are left
    out. Values are numbered within a function.
    """
    header, functions = _split(_NAMES.sub("", _with_printed_kernels(text)))
    order, waiting = [], ["main"]
    bodies = {}
    while waiting:
        name = waiting.pop(0)
        if name in bodies or name not in functions:
            continue
        order.append(name)
        bodies[name] = _without_float_scalars(functions[name])
        waiting += [symbol.strip('"') for symbol in _SYMBOL.findall(bodies[name])]
    # Symbols of other kinds, such as meshes, keep their names.
    numbers = {name: f"@{number}" for number, name in enumerate(order)}
    parts = [header]
    for name in order:
        body = _SYMBOL.sub(lambda m: numbers.get(m[1].strip('"'), m[0]), bodies[name])
        seen: dict[str, str] = {}
        parts.append(_VALUE.sub(lambda m, seen=seen: seen.setdefault(m[0], f"%{len(seen)}"), body))
    return "\n".join(parts)


def _with_printed_kernels(text: str) -> str:
    """The program with the bodies of Pallas kernels as text, which has no locations."""
    context = ir.Context()
    # Kernels are stored in a versioned dialect that is not registered.
    context.allow_unregistered_dialects = True
    tpu.register_dialect(context)
    context.load_all_available_dialects()

    def printed(kernel: re.Match) -> str:
        with context:
            module = str(ir.Module.parse(base64.b64decode(kernel[1])))
        names = {}
        # Other marks than @ and %, which would be read as symbols and values of the program.
        return _SYMBOL.sub(lambda m: names.setdefault(m[1], f"kernel{len(names)}"), module).replace(
            "%", "#"
        )

    return _KERNEL.sub(printed, text)


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The header, with the number of partitions and the meshes, and each function by name."""
    text = text.rstrip().removesuffix("}")
    starts = [(match.start(), match[1].strip('"')) for match in _FUNCTION.finditer(text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    functions = {
        name: text[start:end].rstrip() for (start, name), end in zip(starts, ends, strict=True)
    }
    return _MODULE.sub("module", text[: starts[0][0]]).rstrip(), functions


def _without_float_scalars(body: str) -> str:
    """A function without operations on float scalars and without scalars that only these use.

    What computes on arrays stays, even if it only feeds a scalar, as a norm of gradients does.
    """
    lines = body.splitlines()
    kept = [not _is_float_scalar(line) for line in lines]
    scalars = {
        _OPERATION.match(line)[1] for line, keep in zip(lines, kept, strict=True) if not keep
    }
    uses = collections.Counter(
        value
        for line, keep in zip(lines, kept, strict=True)
        if keep
        for value in _VALUE.findall(line)
    )
    # Values are defined before they are used, so one pass from the end finds all dead ones.
    for index in reversed(range(len(lines))):
        result = _OPERATION.match(lines[index])
        if kept[index] and result and _is_scalar(lines[index]) and uses[result[1]] == 1:
            kept[index] = False
            uses.subtract(_VALUE.findall(lines[index]))
    text = "\n".join(line for line, keep in zip(lines, kept, strict=True) if keep)
    return _VALUE.sub(lambda match: "%scalar" if match[0] in scalars else match[0], text)


def _is_float_scalar(line: str) -> bool:
    """Whether this is a one-line operation on scalars, some of them float."""
    return _is_scalar(line) and any(map(_SCALAR_FLOAT.fullmatch, _TENSOR.findall(line)))


def _is_scalar(line: str) -> bool:
    """Whether this is a one-line operation whose operands and results are all scalars."""
    if not _OPERATION.match(line) or line.rstrip().endswith(("{", "(")):
        return False
    tensors = _TENSOR.findall(line)
    return bool(tensors) and not any("x" in tensor for tensor in tensors)
