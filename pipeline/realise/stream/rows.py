"""Rows of one weight, changed block by block on their way from the base's file to those of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import takewhile

import numpy as np

from pipeline.accounting.layout import Tensor
from pipeline.checkpoint.headers import TORCH_NAMES
from pipeline.errors import MergeError
from pipeline.realise.stream import kernels
from pipeline.realise.stream.changes import Block, act_for
from pipeline.realise.stream.files import Files
from pipeline.realise.stream.kernels import CHANGED, NOT_FINITE
from pipeline.realise.stream.ranges import ChangedRows
from pipeline.realise.stream.stored import read_floats

Advance = Callable[[float], None]


def change_rows(
    items: Sequence[ChangedRows],
    files: Files,
    buffer: memoryview,
    changed: Callable[[ChangedRows], None],
    advance: Advance,
) -> list[Exception | None]:
    """Write the same rows of the base, changed, into each output; each block of them is read once.

    `changed` is told of an item that a merge changes, before a byte of that is written. Returns what went
    wrong with each item alone. Raises what goes wrong with all of them: InputError when the base's file ends
    too early, MergeError when its values cannot be quantized or cast.
    """
    first, stored = items[0], items[0].base
    stored_row = stored.info.bytes // first.tensor.form.shape[0]
    widest = max(stored_row, *(item.row_bytes for item in items))
    step = max(1, len(buffer) // widest // kernels.ROWS) * kernels.ROWS
    if step * stored_row > len(buffer):
        buffer = memoryview(bytearray(step * stored_row))
    shared = _shared(items)
    acts = [act_for(change, first, files, buffer) for change in first.tensor.changes[:shared]]
    block, spare = Block(buffer), Block(buffer)
    with ExitStack() as stack:
        ways = [stack.enter_context(closing(_Way(item, shared, files, buffer))) for item in items]
        for row in range(0, first.count, step):
            count = min(step, first.count - row)
            block.data, block.row = buffer[: count * stored_row], row
            block.dtype = None if first.tensor.packed else stored.info.dtype
            place = stored.info.start + (first.first + row) * stored_row
            files.read(stored.file, block.data, place)
            flags = 0
            for act in acts:
                flags |= act(block)
            going = [way for way in ways if way.error is None]
            for way in going:
                own = block if way is going[-1] else spare
                if own is spare:
                    spare.take(block)
                way.go(own, flags, changed, advance)
        for way in ways:
            way.finish()
        return [way.error for way in ways]


def _shared(items: Sequence[ChangedRows]) -> int:
    """How many changes, from the first on, all of the items have in common."""
    steps = zip(*(item.tensor.changes for item in items), strict=False)
    return sum(1 for _ in takewhile(lambda step: all(one == step[0] for one in step), steps))


class _Way:
    """What is done to the rows for one output only."""

    def __init__(self, item: ChangedRows, shared: int, files: Files, buffer: memoryview) -> None:
        self.error: Exception | None = None
        self._item = item
        self._flags = 0
        self._out = files.outputs[item.target].stretch(item.at)
        try:
            own = item.tensor.changes[shared:]
            self._acts = [act_for(change, item, files, buffer) for change in own]
        except Exception as error:  # of its adapter's file
            self.error = error

    def close(self) -> None:
        """Write no more."""
        self._out.close()

    def go(
        self, block: Block, flags: int, changed: Callable[[ChangedRows], None], advance: Advance
    ) -> None:
        """Change a block and write it; `flags` are those of what was done to it before."""
        try:
            for act in self._acts:
                flags |= act(block)
            if flags & ~self._flags & NOT_FINITE:
                wrong = not_finite(self._item.tensor, safe=self._item.safe)
                if wrong is not None:
                    raise wrong
            if flags & ~self._flags & CHANGED:
                changed(self._item)
            self._flags |= flags
            self._out.put(block.data)
        except Exception as error:
            self.error = error
        else:
            advance(len(block.data))

    def finish(self) -> None:
        """Write what is still in memory."""
        try:
            if self.error is None:
                self._out.finish()
        except Exception as error:
            self.error = error


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
