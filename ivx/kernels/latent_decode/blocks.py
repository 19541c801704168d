"""Streams blocks of a latent cache from HBM into VMEM inside the TPU kernel.

A block of entries occupies one of three slots: two are in use while the third is filled. Entries
beyond the end of a sequence are not fetched. Their part of the slot is zeroed, since uninitialized
memory may hold NaN.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

SLOTS = 3
Scalar = jax.Array | int


@dataclasses.dataclass(frozen=True)
class CacheBlocks:
    """The refs of a kernel that belong to the cache.

    Attributes:
      entries: in HBM, [B, S, E], or pages [M, page, E].
      scales: in HBM, [B, 1, S], or [M, 1, page]; None if entries have no scales.
      table: in SMEM, int32 [B, J]; None if the cache is contiguous.
      entry_slots: in VMEM, [SLOTS, block, E].
      scale_slots: in VMEM, [SLOTS, 1, block], or None.
      semaphores: DMA semaphores [SLOTS].
      page: entries per copy near the end of a sequence.
    """

    entries: Any
    scales: Any
    table: Any
    entry_slots: Any
    scale_slots: Any
    semaphores: Any
    page: int

    @property
    def block(self) -> int:
        return self.entry_slots.shape[1]

    def start(self, row: Scalar, index: Scalar, slot: Scalar, end: Scalar) -> None:
        """Starts to fetch block `index` of sequence `row`, which ends at entry `end`, to `slot`."""
        self._for_each_copy(row, index, slot, end, lambda copy: copy.start())

    def wait(self, row: Scalar, index: Scalar, slot: Scalar, end: Scalar) -> None:
        """Waits for the block, then zeroes the entries from `end` on."""
        self._for_each_copy(row, index, slot, end, lambda copy: copy.wait())

        @pl.when((index + 1) * self.block > end)
        def _() -> None:
            valid = jnp.maximum(end - index * self.block, 0)
            lax.fori_loop(
                lax.div(valid, self.page),
                self.block // self.page,
                lambda part, _: self._clear(slot, part, valid),
                None,
            )

    def _for_each_copy(
        self,
        row: Scalar,
        index: Scalar,
        slot: Scalar,
        end: Scalar,
        action: Callable[[Any], None],
    ) -> None:
        """Calls `action` on the copies of a block: one for a full block, else one per page."""
        first, step = index * self.block, self.page if self.table is not None else self.block
        full = first + self.block <= end

        @pl.when(full)
        def _() -> None:
            for offset in range(0, self.block, step):
                self._copy(row, first + offset, step, slot, offset, action)

        @pl.when(jnp.logical_not(full))
        def _() -> None:
            def copy_page(part: jax.Array, _: None) -> None:
                offset = pl.multiple_of(part * self.page, self.page)
                self._copy(row, first + offset, self.page, slot, offset, action)

            pages = lax.div(jnp.maximum(end - first, 0) + self.page - 1, self.page)
            lax.fori_loop(0, pages, copy_page, None)

    def _copy(
        self,
        row: Scalar,
        first: Scalar,
        count: int,
        slot: Scalar,
        offset: Scalar,
        action: Callable[[Any], None],
    ) -> None:
        """Calls `action` on the copies of `count` entries from `first` on to `offset` of a slot."""
        if self.table is None:
            first = pl.multiple_of(first, self.page)
            entries = self.entries.at[row, pl.ds(first, count)]
        else:
            page = self.table[row, lax.div(first, self.page)]
            entries = self.entries.at[page]
        to, done = pl.ds(offset, count), self.semaphores.at[slot]
        action(pltpu.make_async_copy(entries, self.entry_slots.at[slot, to], done))
        if self.scales is None:
            return
        if self.table is None:
            scales = self.scales.at[row, :, pl.ds(first, count)]
        else:
            scales = self.scales.at[page]
        action(pltpu.make_async_copy(scales, self.scale_slots.at[slot, :, to], done))

    def _clear(self, slot: Scalar, part: Scalar, valid: Scalar) -> None:
        """Zeroes the entries from `valid` on in one page of a slot."""
        offset = pl.multiple_of(part * self.page, self.page)
        to = pl.ds(offset, self.page)
        old = self.entry_slots[slot, to]
        entry = offset + lax.broadcasted_iota(jnp.int32, old.shape, 0)
        # Selects in float32, which every chip supports.
        kept = jnp.where(entry < valid, old.astype(jnp.float32), 0)
        self.entry_slots[slot, to] = kept.astype(old.dtype)
        if self.scale_slots is not None:
            old = self.scale_slots[slot, :, to]
            entry = offset + lax.broadcasted_iota(jnp.int32, old.shape, 1)
            self.scale_slots[slot, :, to] = jnp.where(entry < valid, old, 0)
