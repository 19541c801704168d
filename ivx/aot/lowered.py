"""A digest of a lowered program: what the compiler is given, without the lines it comes from.

The text of a program has no places of sources in it, but for those within Pallas kernels, which are
modules of their own, in bytecode, and know the line of each operation.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping

from jaxlib.mlir import ir
from jaxlib.mosaic.python import tpu

# A kernel within the quoted JSON that configures its call.
_KERNEL = re.compile(r"\\22body\\22: \\22([A-Za-z0-9+/=]+)\\22")


def digest(text: str, options: Mapping[str, str]) -> str:
    """Of a program and of the compiler options that it is compiled with.

    Args:
      text: StableHLO, as `jax.stages.Lowered.as_text` prints it.
      options: by name.
    """
    context = ir.Context()
    # Most kernels are written in a dialect of their own for storage, which no one registers.
    context.allow_unregistered_dialects = True
    tpu.register_dialect(context)
    context.load_all_available_dialects()

    def plain(kernel: re.Match) -> str:
        with context:
            return str(ir.Module.parse(base64.b64decode(kernel[1])))

    whole = _KERNEL.sub(plain, text) + json.dumps(dict(options), sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]
