"""Rows of one weight, changed block by block on their way from the base's file to those of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import numpy as np

from pipeline.accounting.layout import Tensor
from pipeline.checkpoint.headers import TORCH_NAMES
from pipeline.errors import MergeError
from pipeline.realise.stream import kernels
from pipeline.realise.stream.changes import Block, act_for
from pipeline.realise.stream.files import Files
from pipeline.realise.stream.ranges import ChangedRows
from pipeline.realise.stream.stored import read_floats

Advance = Callable[[float], None]


def change_rows(
    items: Sequence[ChangedRows], files: Files, buffer: memoryview, advance: Advance
) -> list[int | Exception]:
    """Write the same rows of the base, changed, into each output; each block of them is read once.

    Returns for each item CHANGED and NOT_FINITE of kernels, or-ed, or what went wrong with it alone. Raises
    what goes wrong with all of them: InputError when the base's file ends too early, MergeError when its
    values cannot be quantized or cast.
    """
    first, stored = items[0], items[0].base
    stored_row = stored.info.bytes // first.tensor.form.shape[0]
    widest = max(stored_row, *(item.row_bytes for item in items))
    step = max(1, len(buffer) // widest // kernels.ROWS) * kernels.ROWS
    if step * stored_row > len(buffer):
        buffer = memoryview(bytearray(step * stored_row))
    shared = _shared(items)
    acts = [act_for(change, first, files, buffer) for change in first.tensor.changes[:shared]]
    ways = [_Way(item, shared, files, buffer) for item in items]
    block, spare, flags = Block(buffer), Block(buffer), 0
    for row in range(0, first.count, step):
        count = min(step, first.count - row)
        block.data, block.row = buffer[: count * stored_row], row
        block.dtype = None if first.tensor.packed else stored.info.dtype
        files.read(stored.file, block.data, stored.info.start + (first.first + row) * stored_row)
        for act in acts:
            flags |= act(block)
        going = [way for way in ways if way.error is None]
        for way in going:
            own = block if way is going[-1] else spare
            if own is spare:
                spare.take(block)
            way.go(own, files, advance)
    return [way.error or way.flags | flags for way in ways]


def _shared(items: Sequence[ChangedRows]) -> int:
    """How many changes, from the first on, all of the items have in common."""
    steps = zip(*(item.tensor.changes for item in items), strict=False)
    return sum(1 for _ in takewhile(lambda step: all(one == step[0] for one in step), steps))


class _Way:
    """What is done to the rows for one output only."""

    def __init__(self, item: ChangedRows, shared: int, files: Files, buffer: memoryview) -> None:
        self.item = item
        self.flags = 0
        self.error: Exception | None = None
        try:
            own = item.tensor.changes[shared:]
            self._acts = [act_for(change, item, files, buffer) for change in own]
        except Exception as error:  # of its adapter's file
            self.error = error

    def go(self, block: Block, files: Files, advance: Advance) -> None:
        """Change a block and write it."""
        try:
            for act in self._acts:
                self.flags |= act(block)
            files.write(
                self.item.target, block.data, self.item.at + block.row * self.item.row_bytes
            )
        except Exception as error:
            self.error = error
        else:
            advance(len(block.data))


def not_finite(tensor: Tensor, *, safe: bool) -> MergeError | None:
    """Why a merged weight is NaN or infinite: which file brought it in, or that the sum is too large.

    None where only a `safe` merge minds: all but numbers of an adapter.
    """
    for delta in tensor.deltas:
        if not all(np.isfinite(read_floats(factor)).all() for factor in (delta.a, delta.b)):
            return MergeError(
                "the adapter's delta holds NaN or infinite values",
                where=f"{delta.a.file}: {tensor.key}",
                fix="its training diverged: use an earlier checkpoint of it",
            )
    if not safe:
        return None
    assert tensor.base is not None
    if not tensor.packed and not np.isfinite(read_floats(tensor.base)).all():
        return MergeError(
            "the base's weight holds NaN or infinite values",
            where=f"{tensor.base.file}: {tensor.key}",
            fix="get the base anew",
        )
    return MergeError(
        f"the merged weight has infinite values: it overflows {TORCH_NAMES[tensor.form.dtype]}",
        where=tensor.key,
        fix="merge with a smaller `weight`, or into a base of a wider dtype",
    )
