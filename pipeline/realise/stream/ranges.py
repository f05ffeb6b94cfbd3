"""Cut the output's files into ranges: what one thread does at a time.

A range is a run of bytes that is only copied, or some rows of one weight that are changed on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from pipeline.accounting.layout import Shard, Stored, Tensor
from pipeline.realise.stream.tiles import ROWS

COPIED_AT_ONCE = 64 << 20
CHANGED_AT_ONCE = 16 << 20
"""Bytes of one range: enough that threads seldom ask for the next, few enough that they end together."""
ABREAST = 2
"""Files that are written at a time. The kernel lets one thread into a file; a third file brings nothing."""


@dataclass(frozen=True)
class Copied:
    """A run of bytes that goes from a file of the base to a file of the output."""

    source: Path
    start: int
    target: str
    at: int
    length: int

    @property
    def bytes(self) -> int:
        """In the output."""
        return self.length


@dataclass(frozen=True)
class ChangedRows:
    """Some rows of a tensor that is changed on its way."""

    tensor: Tensor
    first: int
    count: int
    target: str
    at: int
    """Where the first row goes."""

    @property
    def base(self) -> Stored:
        assert self.tensor.base is not None
        return self.tensor.base

    @property
    def columns(self) -> int:
        return math.prod(self.tensor.form.shape[1:])

    @property
    def bytes(self) -> int:
        """In the output."""
        return self.count * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """In the output."""
        return self.tensor.bytes // self.tensor.form.shape[0]


def ranges(shards: Iterable[Shard]) -> Iterator[Copied | ChangedRows]:
    """All that is to be written, file after file, and of `ABREAST` files in turns.

    Files that are finished early are hashed and on disk while others are written, and outlive a kill.
    """
    waiting = iter(shards)
    lanes = [chain.from_iterable(map(_ranges, waiting)) for _ in range(ABREAST)]
    for abreast in zip_longest(*lanes):
        yield from filter(None, abreast)


def _ranges(shard: Shard) -> Iterator[Copied | ChangedRows]:
    run: Copied | None = None
    for tensor, at in shard.tensors:
        if tensor.base is None or not tensor.bytes:
            continue
        if not tensor.copied:
            yield from _rows(tensor, shard.name, at)
            continue
        here = Copied(tensor.base.file, tensor.base.info.start, shard.name, at, tensor.bytes)
        if run and _continues(run, here):
            run = replace(run, length=run.length + here.length)
        else:
            yield from _split(run)
            run = here
    yield from _split(run)


def _continues(run: Copied, after: Copied) -> bool:
    return (run.source, run.start + run.length, run.at + run.length) == (
        after.source,
        after.start,
        after.at,
    )


def _split(run: Copied | None) -> Iterator[Copied]:
    if run is None:
        return
    for offset in range(0, run.length, COPIED_AT_ONCE):
        length = min(COPIED_AT_ONCE, run.length - offset)
        yield replace(run, start=run.start + offset, at=run.at + offset, length=length)


def _rows(tensor: Tensor, target: str, at: int) -> Iterator[ChangedRows]:
    rows = tensor.form.shape[0]
    row_bytes = tensor.bytes // rows
    step = max(1, CHANGED_AT_ONCE // row_bytes // ROWS) * ROWS
    if tensor.through and tensor.through.double_quant:
        step = rows  # its scales depend on the whole tensor
    for first in range(0, rows, step):
        count = min(step, rows - first)
        yield ChangedRows(tensor, first, count, target, at + first * row_bytes)
