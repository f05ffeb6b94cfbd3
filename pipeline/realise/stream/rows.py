"""Rows of one weight, changed block by block on their way from the base's file to the output's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.accounting.layout import Delta, Stored, Tensor
from pipeline.errors import MergeError
from pipeline.realise.stream import kernels
from pipeline.realise.stream.files import Files
from pipeline.realise.stream.nested import nested_scales
from pipeline.realise.stream.nf4 import BLOCK as BLOCK_4BIT
from pipeline.realise.stream.nf4 import largest_of_blocks, through_4bit
from pipeline.realise.stream.ranges import ChangedRows

Advance = Callable[[float], None]


def change_rows(
    item: ChangedRows, files: Files, buffer: memoryview, advance: Advance, *, safe: bool
) -> bool:
    """Write the rows; returns whether a delta changed any of their bits.

    Raises MergeError when the base's values cannot be quantized, or a merged one is NaN or infinite and
    `safe`; InputError when the base's file ends too early.
    """
    tensor, base, row_bytes = item.tensor, item.base, item.row_bytes
    columns = base.info.shape[1]
    deltas = [_factors(delta, item) for delta in tensor.deltas]
    scales = _nested_scales(item, files, buffer)
    step = max(1, len(buffer) // row_bytes // kernels.ROWS) * kernels.ROWS
    if step * row_bytes > len(buffer):
        buffer = memoryview(bytearray(step * row_bytes))
    flags = 0
    for row in range(0, item.count, step):
        block = buffer[: min(step, item.count - row) * row_bytes]
        start = base.info.start + (item.first + row) * row_bytes
        files.read(base.file, block, start)
        if tensor.through:
            first = row * columns // BLOCK_4BIT
            own = scales if scales is None else scales[first:]
            if not through_4bit(block, _stored(tensor), tensor.through.kind, own):
                raise _not_quantizable(tensor)
        for delta in deltas:
            flags |= kernels.fold_rows(block, _stored(tensor), columns, delta, row)
        files.write(item.target, block, item.at + row * row_bytes)
        advance(len(block))
    if safe and flags & kernels.NOT_FINITE:
        raise _not_finite(tensor)
    return bool(flags & kernels.CHANGED)


def read_floats(tensor: Stored) -> NDArray[np.float32]:
    """A tensor of an adapter's file as float32, in its shape."""
    with open(tensor.file, "rb", buffering=0) as file:
        raw = os.pread(file.fileno(), tensor.info.bytes, tensor.info.start)
    return _as_float32(raw, tensor.info.dtype).reshape(tensor.info.shape)


def _nested_scales(
    item: ChangedRows, files: Files, buffer: memoryview
) -> NDArray[np.float32] | None:
    """The scales of a whole tensor when they are quantized too, from a first pass over it."""
    tensor = item.tensor
    if tensor.through is None or not tensor.through.double_quant:
        return None
    info, found = item.base.info, []
    for offset in range(0, info.bytes, len(buffer)):
        part = buffer[: min(len(buffer), info.bytes - offset)]
        files.read(item.base.file, part, info.start + offset)
        found.append(largest_of_blocks(part, _stored(tensor)))
    scales = nested_scales(np.concatenate(found))
    if not np.isfinite(scales).all():
        raise _not_quantizable(tensor)
    return scales


def _factors(delta: Delta, item: ChangedRows) -> kernels.Factors:
    b = read_floats(delta.b)[item.first : item.first + item.count]
    return kernels.padded(read_floats(delta.a), b, delta.scale)


def _stored(tensor: Tensor) -> Any:
    return tensor.form.dtype


def _as_float32(raw: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(raw, np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, np.float16).astype(np.float32)
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _not_quantizable(tensor: Tensor) -> MergeError:
    return MergeError(
        "the base's weight holds NaN or infinite values, which cannot be quantized",
        where=tensor.key,
        fix="get the base anew, or load it without quantization",
    )


def _not_finite(tensor: Tensor) -> MergeError:
    adapters = " or ".join(sorted({str(delta.a.file.parent) for delta in tensor.deltas}))
    return MergeError(
        "the merged weight holds NaN or infinite values",
        where=tensor.key,
        fix=f"the training of {adapters} diverged, or its delta overflows the base's dtype: use an "
        "earlier checkpoint of it, or a wider dtype",
    )
