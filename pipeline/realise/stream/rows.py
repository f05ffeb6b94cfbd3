"""Rows of one weight, changed block by block on their way from the base's file to the output's."""

from __future__ import annotations

from collections.abc import Callable

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
    item: ChangedRows, files: Files, buffer: memoryview, advance: Advance, *, safe: bool
) -> bool:
    """Write the rows; returns whether a delta changed any of their bits.

    Raises MergeError when the base's values cannot be quantized or cast, or a merged one is NaN or infinite
    and `safe`; InputError when the base's file ends too early.
    """
    tensor, base = item.tensor, item.base
    stored_row = base.info.bytes // tensor.form.shape[0]
    acts = [act_for(change, item, files, buffer) for change in tensor.changes]
    step = max(1, len(buffer) // max(stored_row, item.row_bytes) // kernels.ROWS) * kernels.ROWS
    if step * stored_row > len(buffer):
        buffer = memoryview(bytearray(step * stored_row))
    block, flags = Block(buffer), 0
    for row in range(0, item.count, step):
        count = min(step, item.count - row)
        block.data, block.row = buffer[: count * stored_row], row
        block.dtype = None if tensor.packed else base.info.dtype
        files.read(base.file, block.data, base.info.start + (item.first + row) * stored_row)
        for act in acts:
            flags |= act(block)
        files.write(item.target, block.data, item.at + row * item.row_bytes)
        advance(len(block.data))
    if safe and flags & kernels.NOT_FINITE:
        raise _not_finite(tensor)
    return bool(flags & kernels.CHANGED)


def _not_finite(tensor: Tensor) -> MergeError:
    """Says which file brought it in, or that the sum is too large."""
    assert tensor.base is not None
    if not tensor.packed and not np.isfinite(read_floats(tensor.base)).all():
        return MergeError(
            "the base's weight holds NaN or infinite values",
            where=f"{tensor.base.file}: {tensor.key}",
            fix="get the base anew",
        )
    for delta in tensor.deltas:
        if not all(np.isfinite(read_floats(factor)).all() for factor in (delta.a, delta.b)):
            return MergeError(
                "the adapter's delta holds NaN or infinite values",
                where=f"{delta.a.file}: {tensor.key}",
                fix="its training diverged: use an earlier checkpoint of it",
            )
    return MergeError(
        f"the merged weight has infinite values: it overflows {TORCH_NAMES[tensor.form.dtype]}",
        where=tensor.key,
        fix="merge with a smaller `weight`, or into a base of a wider dtype",
    )
