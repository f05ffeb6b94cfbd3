"""What is done to a block of rows of one weight, for each kind of change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.accounting.layout import Cast, Change, Delta, Summed, Tensor, Unpack4, Unpack8
from pipeline.blueprint import Quantization
from pipeline.checkpoint.headers import TORCH_NAMES
from pipeline.errors import MergeError
from pipeline.realise.stream import kernels
from pipeline.realise.stream.casts import OVERFLOWS, cast
from pipeline.realise.stream.files import Files
from pipeline.realise.stream.nested import nested_scales
from pipeline.realise.stream.nf4 import BLOCK as BLOCK_4BIT
from pipeline.realise.stream.nf4 import largest_of_blocks, through_4bit
from pipeline.realise.stream.packed import through_8bit, unpack_4bit, unpack_8bit
from pipeline.realise.stream.ranges import ChangedRows
from pipeline.realise.stream.stored import as_float32, read_floats, stored_scales
from pipeline.realise.stream.vectors import SIZE

Act = Callable[["Block"], int]
"""Changes a block; returns CHANGED and NOT_FINITE of kernels, or-ed."""


class Block:
    """Some rows of a weight, as they are at one point of the way."""

    def __init__(self, buffer: memoryview) -> None:
        self.data = buffer
        self.dtype: Any = None
        """None while its numbers are packed in 4 or 8 bits."""
        self.row = 0
        """The first row, counted from the first of the range."""
        self._spare: dict[str, memoryview] = {}

    def other(self, dtype: str, bytes_: int) -> memoryview:
        """A buffer to make the same numbers in another dtype in."""
        held = self._spare.get(dtype)
        if held is None or len(held) < bytes_:
            held = self._spare[dtype] = memoryview(bytearray(bytes_))
        return held[:bytes_]

    def take(self, other: Block) -> None:
        """Become a copy of another block."""
        self.data = self.other("taken", len(other.data))
        self.dtype, self.row = other.dtype, other.row
        # numpy lets other threads run meanwhile.
        np.copyto(np.frombuffer(self.data, np.uint8), np.frombuffer(other.data, np.uint8))


def act_for(change: Change, item: ChangedRows, files: Files, buffer: memoryview) -> Act:
    """What is to be done to each block of the range for one change."""
    match change:
        case Cast():
            return lambda block: _cast(block, change.dtype, item.tensor)
        case Quantization(kind="int8"):
            return lambda block: _through_8bit(block, item)
        case Quantization():
            return _through_4bit(change, item, files, buffer)
        case Unpack4():
            return _unpack_4bit(change, item, files)
        case Unpack8():
            return _unpack_8bit(change, item)
        case Delta():
            return _add(change, item, files)
        case Summed():
            return _sum(change, item, files)


def _cast(block: Block, dtype: Any, tensor: Tensor) -> int:
    found = block.other(dtype, len(block.data) // SIZE[block.dtype] * SIZE[dtype])
    if cast(block.data, block.dtype, found, dtype) & OVERFLOWS:
        raise _overflows(block, dtype, tensor)
    block.data, block.dtype = found, dtype
    return 0


def _through_8bit(block: Block, item: ChangedRows) -> int:
    if not through_8bit(block.data, item.columns):
        raise _not_quantizable(item.tensor)
    return 0


def _through_4bit(change: Quantization, item: ChangedRows, files: Files, buffer: memoryview) -> Act:
    scales: NDArray[np.float32] | None = None
    if change.double_quant:
        changes = item.tensor.changes
        before = changes[: changes.index(change)]
        count = math.prod(item.tensor.form.shape) // BLOCK_4BIT
        whole = files.shared.get(
            (item.base, before), 4 * count, lambda: _nested_scales(before, item, files, buffer)
        )
        scales = whole[item.first * item.columns // BLOCK_4BIT :]

    def act(block: Block) -> int:
        own = scales if scales is None else scales[block.row * item.columns // BLOCK_4BIT :]
        if not through_4bit(block.data, block.dtype, change.kind, own):
            raise _not_quantizable(item.tensor)
        return 0

    return act


def _nested_scales(
    before: Sequence[Change], item: ChangedRows, files: Files, buffer: memoryview
) -> NDArray[np.float32]:
    """The scales of a whole tensor when they are quantized too, from a first pass over it.

    They are those of the tensor as it is quantized: cast before to the dtype of the model.
    """
    tensor, info, found = item.tensor, item.base.info, []
    dtypes = [change.dtype for change in before if isinstance(change, Cast)]
    block = Block(buffer)
    for offset in range(0, info.bytes, len(buffer)):
        block.data, block.dtype = buffer[: min(len(buffer), info.bytes - offset)], info.dtype
        files.read(item.base.file, block.data, info.start + offset)
        for dtype in dtypes:
            _cast(block, dtype, tensor)
        found.append(largest_of_blocks(block.data, block.dtype))
    scales = nested_scales(np.concatenate(found))
    if not np.isfinite(scales).all():
        raise _not_quantizable(tensor)
    return scales


def _unpack_4bit(change: Unpack4, item: ChangedRows, files: Files) -> Act:
    dtype: Any = change.form.dtype
    per_row = item.columns // BLOCK_4BIT
    count = math.prod(item.tensor.form.shape) // BLOCK_4BIT
    whole = files.shared.get(change, 4 * count, lambda: stored_scales(change))
    scales = whole[item.first * per_row :]

    def act(block: Block) -> int:
        count = len(block.data) * 2
        found = block.other(dtype, count * SIZE[dtype])
        first = block.row * per_row
        own = scales[first : first + count // BLOCK_4BIT]
        unpack_4bit(block.data, own, change.kind, found, dtype)
        block.data, block.dtype = found, dtype
        return 0

    return act


def _unpack_8bit(change: Unpack8, item: ChangedRows) -> Act:
    scales = read_floats(change.scales)[item.first : item.first + item.count]

    def act(block: Block) -> int:
        found = block.other("F32", len(block.data) * SIZE["F32"])
        own = scales[block.row : block.row + len(block.data) // item.columns]
        unpack_8bit(block.data, own, found)
        block.data, block.dtype = found, "F32"
        return 0

    return act


def _add(delta: Delta, item: ChangedRows, files: Files) -> Act:
    factors = _factors(delta, files)
    return lambda block: kernels.fold_rows(
        block.data, block.dtype, item.columns, factors, item.first + block.row
    )


def _sum(change: Summed, item: ChangedRows, files: Files) -> Act:
    dtype: Any = change.dtype
    factors = [_factors(delta, files) for delta in change.deltas]

    def act(block: Block) -> int:
        count = len(block.data) // SIZE["F32"]
        before = block.other(f"{dtype} before", count * SIZE[dtype])
        cast(block.data, "F32", before, dtype)
        for delta in factors:
            kernels.fold_rows(block.data, "F32", item.columns, delta, item.first + block.row)
        after = block.other(dtype, count * SIZE[dtype])
        broken = cast(block.data, "F32", after, dtype) & kernels.NOT_FINITE
        block.data, block.dtype = after, dtype
        return broken | (kernels.CHANGED if before != after else 0)

    return act


def _factors(delta: Delta, files: Files) -> kernels.Factors:
    return files.shared.get(
        delta,
        delta.bytes,
        lambda: kernels.padded(read_floats(delta.a), read_floats(delta.b), delta.scale),
    )


def _not_quantizable(tensor: Tensor) -> MergeError:
    assert tensor.base is not None
    return MergeError(
        "the base's weight holds NaN or infinite values, which cannot be quantized",
        where=f"{tensor.base.file}: {tensor.key}",
        fix="get the base anew, or load it without quantization",
    )


def _overflows(block: Block, dtype: str, tensor: Tensor) -> MergeError:
    values = np.abs(as_float32(block.data, block.dtype))
    most = float(values[np.isfinite(values)].max())
    return MergeError(
        f"values up to {most:.4g} overflow {TORCH_NAMES[dtype]}",
        where=tensor.key,
        fix="save as bfloat16 or float32",
    )
