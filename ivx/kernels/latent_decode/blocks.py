"""Blocks of a latent cache on their way from HBM into VMEM, inside the TPU kernel.

A block of entries lies in one of three slots: two are at work while the third is filled. What lies
beyond the end of a sequence is not fetched; its place in the slot is set to zero, since whatever
was there before might not be a number.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

SLOTS = 3


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The references of a kernel that belong to the cache.

    Attributes:
      entries: in HBM, [B, S, E], or pages [M, page, E].
      scales: in HBM, [B, 1, S], or [M, 1, page]; None where entries have none.
      table: in SMEM, int32 [B, J], or None where entries lie in rows.
      entry_slots: in VMEM, [SLOTS, block, E].
      scale_slots: in VMEM, [SLOTS, 1, block], or None.
      arrived: DMA semaphores [SLOTS].
      page: entries that are copied together near the end of a sequence.
    """

    entries: Any
    scales: Any
    table: Any
    entry_slots: Any
    scale_slots: Any
    arrived: Any
    page: int

    @property
    def block(self) -> int:
        return self.entry_slots.shape[1]

    def start(self, row, number, slot, end) -> None:
        """Fetches block `number` of sequence `row`, which ends at entry `end`, into `slot`."""
        self._each(row, number, slot, end, lambda copy: copy.start())

    def wait(self, row, number, slot, end) -> None:
        """Until it has arrived; entries from `end` on are then zeros."""
        self._each(row, number, slot, end, lambda copy: copy.wait())

        @pl.when((number + 1) * self.block > end)
        def _():
            left = jnp.maximum(end - number * self.block, 0)
            lax.fori_loop(
                lax.div(left, self.page),
                self.block // self.page,
                lambda part, _: self._clear(slot, part, left),
                None,
            )

    def _each(self, row, number, slot, end, act: Callable) -> None:
        """Calls `act` on the copies of a block: whole, or page by page up to its end."""
        first, step = number * self.block, self.page if self.table is not None else self.block
        whole = first + self.block <= end

        @pl.when(whole)
        def _():
            for place in range(0, self.block, step):
                self._copies(row, first + place, step, slot, place, act)

        @pl.when(jnp.logical_not(whole))
        def _():
            def one(part, _):
                place = pl.multiple_of(part * self.page, self.page)
                self._copies(row, first + place, self.page, slot, place, act)

            pages = lax.div(jnp.maximum(end - first, 0) + self.page - 1, self.page)
            lax.fori_loop(0, pages, one, None)

    def _copies(self, row, first, count, slot, place, act: Callable) -> None:
        """The copies of `count` entries from `first` on to `place` of a slot."""
        if self.table is None:
            first = pl.multiple_of(first, self.page)
            entries = self.entries.at[row, pl.ds(first, count)]
        else:
            number = self.table[row, lax.div(first, self.page)]
            entries = self.entries.at[number]
        to = pl.ds(place, count)
        act(pltpu.make_async_copy(entries, self.entry_slots.at[slot, to], self.arrived.at[slot]))
        if self.scales is None:
            return
        if self.table is None:
            scales = self.scales.at[row, :, pl.ds(first, count)]
        else:
            scales = self.scales.at[number]
        act(pltpu.make_async_copy(scales, self.scale_slots.at[slot, :, to], self.arrived.at[slot]))

    def _clear(self, slot, part, left) -> None:
        """Zeros from entry `left` on in one page of a slot."""
        place = pl.multiple_of(part * self.page, self.page)
        to = pl.ds(place, self.page)
        old = self.entry_slots[slot, to]
        entry = place + lax.broadcasted_iota(jnp.int32, old.shape, 0)
        # By way of float32, which every chip can choose among.
        kept = jnp.where(entry < left, old.astype(jnp.float32), 0)
        self.entry_slots[slot, to] = kept.astype(old.dtype)
        if self.scale_slots is not None:
            old = self.scale_slots[slot, :, to]
            entry = place + lax.broadcasted_iota(jnp.int32, old.shape, 1)
            self.scale_slots[slot, :, to] = jnp.where(entry < left, old, 0)
