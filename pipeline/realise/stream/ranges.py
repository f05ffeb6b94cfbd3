"""Cut the files of one or more outputs into ranges: what one thread does at a time.

A range is a run of bytes that is only copied, or some rows of one weight of the base that are changed on
their way into every output that changes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, zip_longest
from pathlib import Path

from pipeline.accounting.buffers import FACTORS_AT_ONCE
from pipeline.accounting.layout import Shard, Stored, Tensor
from pipeline.realise.stream.output import Output
from pipeline.realise.stream.tiles import ROWS

ABREAST = 2
"""Files of one output that are written at a time: one thread at a time hashes a file."""


@dataclass(frozen=True)
class Copied:
    """A run of bytes that goes from a file of the base to a file of an output."""

    source: Path
    start: int
    target: Path
    at: int
    length: int


@dataclass(frozen=True)
class ChangedRows:
    """Some rows of a tensor that is changed on its way to a file of an output."""

    tensor: Tensor
    first: int
    count: int
    target: Path
    at: int
    """Where the first row goes."""
    safe: bool
    """Whether a value that is NaN or infinite is an error whatever brought it in."""

    @property
    def base(self) -> Stored:
        assert self.tensor.base is not None
        return self.tensor.base

    @property
    def columns(self) -> int:
        return math.prod(self.tensor.form.shape[1:])

    @property
    def row_bytes(self) -> int:
        """In the output."""
        return self.tensor.bytes // self.tensor.form.shape[0]


Range = Copied | tuple[ChangedRows, ...]
"""Rows are the same rows of the same tensor of the base, once for each output."""


def ranges(outputs: Sequence[Output], at_once: int) -> Iterator[Range]:
    """All that is to be written, in ranges of so many bytes in all outputs.

    One output is written file after file, `ABREAST` of them in turns: files that are finished early are
    hashed and on disk while others are written, and outlive a kill. Several are written in the order of the
    base, so that what is read for one is at hand for the others.
    """
    if len(outputs) > 1:
        pieces = (_pieces(shard, one, at_once) for one in outputs for shard in one.shards)
        yield from _cut(sorted(chain.from_iterable(pieces), key=_place), at_once)
        return
    files = iter([_pieces(shard, one, at_once) for one in outputs for shard in one.shards])
    lanes = [chain.from_iterable(_cut(one, at_once) for one in files) for _ in range(ABREAST)]
    for abreast in zip_longest(*lanes):
        yield from filter(None, abreast)


def _pieces(shard: Shard, output: Output, at_once: int) -> Iterator[Copied | ChangedRows]:
    """A file of an output: runs that are copied, and whole tensors that are changed."""
    target = output.folder / shard.name
    run: Copied | None = None
    for tensor, at in shard.tensors:
        if tensor.base is None or not tensor.bytes:
            continue
        if not tensor.copied:
            yield from _split(run, at_once)
            run = None
            yield ChangedRows(tensor, 0, tensor.form.shape[0], target, at, output.safe)
            continue
        here = Copied(tensor.base.file, tensor.base.info.start, target, at, tensor.bytes)
        if run and _continues(run, here):
            run = replace(run, length=run.length + here.length)
        else:
            yield from _split(run, at_once)
            run = here
    yield from _split(run, at_once)


def _place(piece: Copied | ChangedRows) -> tuple[Path, int]:
    """Where it is read."""
    if isinstance(piece, Copied):
        return piece.source, piece.start
    return piece.base.file, piece.base.info.start


def _cut(pieces: Iterable[Copied | ChangedRows], at_once: int) -> Iterator[Range]:
    for _, together in groupby(pieces, _place):
        changed: list[ChangedRows] = []
        for piece in together:
            if isinstance(piece, Copied):
                yield piece
            else:
                changed.append(piece)
        for whole in _batches(changed):
            yield from _rows(whole, at_once)


def _continues(run: Copied, after: Copied) -> bool:
    return (run.source, run.start + run.length, run.at + run.length) == (
        after.source,
        after.start,
        after.at,
    )


def _split(run: Copied | None, at_once: int) -> Iterator[Copied]:
    if run is None:
        return
    for offset in range(0, run.length, at_once):
        length = min(at_once, run.length - offset)
        yield replace(run, start=run.start + offset, at=run.at + offset, length=length)


def _batches(changed: Sequence[ChangedRows]) -> Iterator[list[ChangedRows]]:
    """As many outputs together as their factors have room, one at least."""
    batch: list[ChangedRows] = []
    room = FACTORS_AT_ONCE
    for one in changed:
        takes = sum(delta.bytes for delta in one.tensor.deltas)
        if batch and takes > room:
            yield batch
            batch, room = [], FACTORS_AT_ONCE
        batch.append(one)
        room -= takes
    if batch:
        yield batch


def _rows(whole: Sequence[ChangedRows], at_once: int) -> Iterator[tuple[ChangedRows, ...]]:
    rows = whole[0].count
    step = max(1, at_once // sum(one.row_bytes for one in whole) // ROWS) * ROWS
    for first in range(0, rows, step):
        count = min(step, rows - first)
        yield tuple(
            replace(one, first=first, count=count, at=one.at + first * one.row_bytes)
            for one in whole
        )
