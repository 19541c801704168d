"""Saves numpy parameters chunk by chunk, without a second copy in memory.

Orbax by default copies all numpy arrays first and compresses all of them at once, so a save holds
the parameters three times. Here nothing is copied, because nothing trains meanwhile, and at most
`CONCURRENT` chunks are being written at a time. A chunk never spans two layers.

The overridden method is private to Orbax. The public alternative, writing arrays one by one with
`serialize`, keeps a whole compressed array in memory, and more on a busy machine.
"""

import asyncio
import itertools
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from ivx import progress

# Approximate bytes per chunk: larger chunks mean fewer files, smaller ones less memory.
CHUNK = 4 << 20
CONCURRENT = 2


class HostArrayHandler(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of numpy arrays, with less memory."""

    def __init__(self, bar: progress.Bar) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._bar = bar
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._open, self._failed = 0, False

    async def _open_and_write(self, value: np.ndarray, tspec: dict, ts_context: ts.Context) -> None:
        self._open += 1
        try:
            await self._write(value, tspec, ts_context)
        except Exception:
            # Orbax closes the event loop at the first error, so it comes after all other writes.
            if self._failed:
                return
            self._failed = True
            while self._open > 1:
                await asyncio.sleep(0.01)
            raise
        finally:
            self._open -= 1

    async def _write(self, value: np.ndarray, tspec: dict, ts_context: ts.Context) -> None:
        store = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
        chunk = store.chunk_layout.write_chunk.shape

        async def write(corner: tuple[int, ...]) -> None:
            part = tuple(slice(a, a + b) for a, b in zip(corner, chunk, strict=True))
            async with self._slots:
                if not self._failed:
                    source = value[part]
                    await store[part].write(source, can_reference_source_data_indefinitely=True)
                    self._bar.advance(source.nbytes)

        corners = itertools.product(
            *(range(0, size, step) for size, step in zip(value.shape, chunk, strict=True))
        )
        ends = await asyncio.gather(*(write(corner) for corner in corners), return_exceptions=True)
        for error in filter(None, ends):
            raise error


def handler(bar: progress.Bar) -> ocp.PyTreeCheckpointHandler:
    """A handler of trees of arrays that uses `HostArrayHandler` for numpy arrays.

    Args:
      bar: counts the bytes written of numpy arrays.
    """
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, HostArrayHandler(bar)),
            (jax.Array, ocp.type_handlers.get_type_handler(jax.Array)),
        )
    )


def chunked(tree: Any) -> Any:
    """Orbax's arguments to store each array of a tree in chunks, so that parts can be read."""
    return jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), tree)


def save_args(tree: dict) -> ocp.args.PyTreeSave:
    """Arguments of a checkpoint manager to save with `handler`."""
    return ocp.args.PyTreeSave(tree, save_args=chunked(tree))
