"""How parameters in host memory go to disk: chunk after chunk, without a second copy of them.

Orbax by itself copies all arrays of numpy first and compresses all of them at once, so that a save
holds the parameters three times. Here nothing is copied, since nothing is trained meanwhile, and
`WAITING` chunks at a time are on their way; a chunk never crosses from one layer into the next.

The one method that is overridden is not public. What is (writing array after array by `serialize`)
keeps all of a compressed array in memory, and a busy machine more than that.
"""

import asyncio
import itertools

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

# Bytes of a chunk, about; a larger one saves files, a smaller one memory.
CHUNK = 4 << 20
WAITING = 2


class HostArrayHandler(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of numpy arrays with less memory."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)
        self._turn = asyncio.Semaphore(WAITING)

    async def _open_and_write(self, value: np.ndarray, tspec: dict, ts_context: ts.Context):
        store = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
        chunk = store.chunk_layout.write_chunk.shape

        async def write(corner: tuple[int, ...]):
            part = tuple(slice(a, a + b) for a, b in zip(corner, chunk, strict=True))
            async with self._turn:
                await store[part].write(value[part], can_reference_source_data_indefinitely=True)

        corners = itertools.product(
            *(range(0, size, step) for size, step in zip(value.shape, chunk, strict=True))
        )
        await asyncio.gather(*(write(corner) for corner in corners))


def handler() -> ocp.PyTreeCheckpointHandler:
    """Saves trees of arrays, those of numpy in the way of this file."""
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, HostArrayHandler()),
            (jax.Array, ocp.type_handlers.get_type_handler(jax.Array)),
        )
    )


def save_args(tree: dict) -> ocp.args.PyTreeSave:
    """What a checkpoint manager saves with `handler`."""
    small = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), tree)
    return ocp.args.PyTreeSave(tree, save_args=small)
