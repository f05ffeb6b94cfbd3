"""Cut the output's files into ranges: what one thread does at a time.

A range is a run of bytes that is only copied, or some rows of one weight that are changed on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.accounting.layout import Shard, Stored, Tensor
from pipeline.realise.stream.tiles import ROWS

COPIED_AT_ONCE = 64 << 20
CHANGED_AT_ONCE = 16 << 20
"""Bytes of one range: enough that threads seldom ask for the next, few enough that they end together."""


@dataclass(frozen=True)
class Copied:
    """A run of bytes that goes from a file of the base to a file of the output."""

    source: Path
    start: int
    target: str
    at: int
    length: int


@dataclass(frozen=True)
class ChangedRows:
    """Some rows of a weight that is taken through 4 bits, or that deltas are added to, or both."""

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
    def row_bytes(self) -> int:
        return self.tensor.bytes // self.tensor.form.shape[0]


def ranges(shards: Iterable[Shard]) -> list[Copied | ChangedRows]:
    """All that is to be written, the longest first."""
    return sorted(_ranges(shards), key=_length, reverse=True)


def _ranges(shards: Iterable[Shard]) -> Iterator[Copied | ChangedRows]:
    for shard in shards:
        run: Copied | None = None
        for tensor, at in shard.tensors:
            if tensor.base is None:
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


def _length(item: Copied | ChangedRows) -> int:
    return item.length if isinstance(item, Copied) else item.count * item.row_bytes
