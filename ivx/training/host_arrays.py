"""How parameters in host memory go to disk: array after array, without a second copy of them.

Orbax by itself copies all arrays of numpy first and compresses all of them at once, so that a save
holds the parameters three times. Here nothing is copied, since nothing is trained meanwhile, and
one array at a time is compressed.
"""

import asyncio
from collections.abc import Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

# Bytes of a chunk, about; a larger one saves files, a smaller one memory.
CHUNK = 4 << 20


class HostArrayHandler(type_handlers.NumpyHandler):
    """Orbax's handler of numpy arrays with less memory."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(
        self,
        values: Sequence[np.ndarray],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> Sequence[ocp.future.Future]:
        """Writes all; nothing is left for the background, so that no future comes back."""
        args = args or [ocp.SaveArgs()] * len(values)
        for one in zip(values, infos, args, strict=True):
            for future in await super().serialize(*([part] for part in one)):
                await asyncio.to_thread(future.result)
        return []


def handler() -> ocp.PyTreeCheckpointHandler:
    """Saves trees of arrays, those of numpy in the way of this file."""
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=type_handlers.create_type_handler_registry(
            (np.ndarray, HostArrayHandler()),
            (jax.Array, type_handlers.get_type_handler(jax.Array)),
        )
    )


def save_args(tree: dict) -> ocp.args.PyTreeSave:
    """What a checkpoint manager saves with `handler`."""
    small = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), tree)
    return ocp.args.PyTreeSave(tree, save_args=small)
