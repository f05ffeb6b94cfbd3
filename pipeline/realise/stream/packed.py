"""Weights as bitsandbytes stores them, in 4 or 8 bits, made plain numbers again with its bits.

In 4 bits: two codes in a byte, the first in the higher half; the level of a code times the scale of its block
of 64, in float32, is rounded to the dtype. In 8 bits: the code times the scale of its row over 127.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from pipeline.realise.stream.compiling import compiled
from pipeline.realise.stream.nf4 import BLOCK, LEVELS, flushes, scaled
from pipeline.realise.stream.vectors import (
    BITS,
    I32,
    I64,
    LANES,
    STORED,
    TRUTH,
    VF32,
    StoredDtype,
    pointer_to,
    splat,
    store,
)  # fmt: skip

Floats = NDArray[np.float32]

_FP4, _FP4_ORDER = LEVELS["fp4"][8:], [0, 1, 6, 7, 4, 5, 2, 3]
_CODES = {
    "nf4": LEVELS["nf4"],
    "fp4": np.concatenate([_FP4[_FP4_ORDER], 0 - _FP4[_FP4_ORDER]]),
}
"""What each code stands for."""
_PAIRS = {
    kind: np.stack([np.repeat(codes, 16), np.tile(codes, 16)], axis=1).astype(np.float32)
    for kind, codes in _CODES.items()
}
"""The two numbers of each byte, [256, 2]."""

_OF_127 = np.float32(1 / 127)


def unpack_4bit(
    codes: memoryview, scales: Floats, kind: str, target: memoryview, dtype: StoredDtype
) -> None:
    """Fill `target` with the numbers of packed codes; `scales` has one for each 64 of them."""
    found = np.frombuffer(target, BITS[dtype])
    _unpack(np.frombuffer(codes, np.uint8), scales, _PAIRS[kind], found, flushes(dtype))


def unpack_8bit(codes: memoryview, scales: Floats, target: memoryview) -> None:
    """Fill `target` with float32 numbers; `scales` has one for each row of codes."""
    rows = np.frombuffer(codes, np.int8).reshape(len(scales), -1)
    _unpack_rows(rows, scales, np.frombuffer(target, np.float32).reshape(rows.shape))


def through_8bit(block: memoryview, columns: int) -> bool:
    """Take rows of float32 through 8 bits and back, in place; False when some are NaN or infinite.

    Each row is divided by its largest magnitude and rounded to one of 255 whole numbers.
    """
    rows = np.frombuffer(block, np.float32).reshape(-1, columns)
    magnitudes = rows.view(np.int32) & np.int32(0x7FFFFFFF)  # as integers, whose maximum is quick
    largest = magnitudes.max(axis=1, initial=0).view(np.float32)
    _through_rows(rows, largest)
    return bool(np.isfinite(largest).all())


def _unpack_vectors(typingctx, kind, codes, scale, pairs, target, flush):  # type: ignore[no-untyped-def]
    """Numba intrinsic `(kind, codes, scale, pairs, target, flush) -> void`: one block of 64 numbers."""
    dtype = STORED[kind]
    signature = types.void(kind, types.uintp, types.float32, types.uintp, types.uintp, types.int32)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _, codes, scale, pairs, target, flush = args
        bytes_at = builder.inttoptr(codes, ir.IntType(8).as_pointer())
        table = builder.inttoptr(pairs, I64.as_pointer())
        place = pointer_to(builder, dtype, target)
        scales = splat(builder, scale, VF32)
        keep = splat(builder, builder.icmp_signed("==", flush, ir.Constant(I32, 0)), TRUTH)
        for first in range(0, BLOCK, LANES):
            found: Any = ir.Constant(ir.VectorType(I64, LANES // 2), ir.Undefined)
            for n in range(LANES // 2):
                byte = builder.load(builder.gep(bytes_at, [ir.Constant(I64, first // 2 + n)]))
                pair = builder.load(builder.gep(table, [builder.zext(byte, I64)]))
                found = builder.insert_element(found, pair, ir.Constant(I32, n))
            new = scaled(builder, dtype, builder.bitcast(found, VF32), scales, keep)
            store(builder, dtype, new, place, ir.Constant(I64, first))
        return context.get_dummy_value()

    return signature, generate


_unpack_block: Any = intrinsic(_unpack_vectors)


def _unpack_array(codes, scales, pairs, found, flush):  # type: ignore[no-untyped-def]
    at, to = codes.ctypes.data, found.ctypes.data
    for n in range(scales.size):
        _unpack_block(
            found[0], at + n * BLOCK // 2, scales[n], pairs.ctypes.data,
            to + n * BLOCK * found.itemsize, flush,
        )  # fmt: skip


def _unpack_rows_array(codes, scales, found):  # type: ignore[no-untyped-def]
    for row in range(scales.size):
        for column in range(codes.shape[1]):
            found[row, column] = np.float32(codes[row, column]) * scales[row] * _OF_127


def _through_rows_array(rows, largest):  # type: ignore[no-untyped-def]
    for row in range(rows.shape[0]):
        inverse = np.float32(1) / largest[row] * np.float32(127) if largest[row] else np.float32(0)
        for column in range(rows.shape[1]):
            code = np.float32(np.int32(np.rint(rows[row, column] * inverse)))
            rows[row, column] = code * largest[row] * _OF_127


_unpack: Any = compiled(_unpack_array)
_unpack_rows: Any = compiled(_unpack_rows_array)
_through_rows: Any = compiled(_through_rows_array)
