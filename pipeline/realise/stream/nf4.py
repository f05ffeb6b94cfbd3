"""Take weights through 4 bits and back, in the buffer that they were read into, as bitsandbytes does.

Quantization as of bitsandbytes 0.50 on a CPU: each 64 numbers are divided by the largest of them, by way of
its reciprocal; each quotient becomes the nearest of 16 levels, of two equally near ones the lower; the level
times the scale, in float32, is rounded to the weight's dtype. With double quantization the scales are first
taken through 8 bits (nested.py). The levels are those of QLoRA (arXiv:2305.14314, appendix E) and of a
4-bit floating point number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from pipeline.accounting.processor import has
from pipeline.realise.stream.compiling import compiled
from pipeline.realise.stream.vectors import (
    BITS,
    F32,
    I32,
    I64,
    LANES,
    SIZE,
    STORED,
    TRUTH,
    VF32,
    VI32,
    StoredDtype,
    every,
    load,
    narrow,
    pointer_to,
    splat,
    store,
    stored_vector,
    widen,
)  # fmt: skip

BLOCK = 64
"""Numbers under one scale."""

_THIRDS = (1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)
LEVELS: dict[str, NDArray[np.float32]] = {
    "nf4": np.array(
        [
            -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
            -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
            0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
            0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
        ],
        np.float32,
    ),
    # Zero is there twice, as there are two codes for it.
    "fp4": np.array([*(-x for x in reversed(_THIRDS)), 0, 0, *_THIRDS], np.float32),
}  # fmt: skip
"""What the 16 codes stand for, from the lowest."""

_TABLES = {
    kind: np.concatenate([levels, (levels[:-1] + levels[1:]) / np.float32(2)])
    for kind, levels in LEVELS.items()
}
"""The 16 levels, then the 15 bounds between them."""

_NO_SCALES = np.empty(0, np.float32)


def through_4bit(
    block: memoryview,
    dtype: StoredDtype,
    kind: str,
    scales: NDArray[np.float32] | None = None,
) -> bool:
    """Replace the numbers by those that 4 bits can hold, in place; False when some are NaN or infinite.

    `kind` is nf4 or fp4. `block` holds a multiple of 64 numbers; `scales` those to dequantize by, one
    for each 64, where they are not simply the largest.
    """
    weight = np.frombuffer(block, BITS[dtype])
    own = _NO_SCALES if scales is None else scales
    return bool(_through(weight, own, _TABLES[kind], flushes(dtype)))


def flushes(dtype: StoredDtype) -> np.int32:
    """1 where bitsandbytes rounds by an instruction that takes denormals of bfloat16 for zero."""
    return np.int32(dtype == "BF16" and has("avx512f") and has("avx512bf16"))


def scaled(builder: ir.IRBuilder, dtype: StoredDtype, level: Any, scales: Any, keep: Any) -> Any:
    """Levels times scales, rounded to the dtype; denormals become zero in lanes that do not `keep` them."""
    value = builder.bitcast(builder.fmul(level, scales), VI32)
    normal = builder.icmp_unsigned("!=", builder.and_(value, every(0x7F800000)), every(0))
    zero = builder.and_(value, every(0x80000000))
    value = builder.select(builder.or_(keep, normal), value, zero)
    return narrow(builder, dtype, builder.bitcast(value, VF32))


def largest_of_blocks(block: memoryview, dtype: StoredDtype) -> NDArray[np.float32]:
    """The largest magnitude of each 64 numbers."""
    weight = np.frombuffer(block, BITS[dtype])
    found = np.empty(len(weight) // BLOCK, np.float32)
    _largest_of_blocks(weight, found)
    return found


def _find_largest(typingctx, kind, at):  # type: ignore[no-untyped-def]
    """Numba intrinsic `(kind, at) -> float32`: the largest magnitude of the 64 numbers at an address."""
    dtype = STORED[kind]
    signature = types.float32(kind, types.uintp)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        found: Any = every(0)
        for raw in _load_block(builder, dtype, args[1]):
            bits = builder.bitcast(widen(builder, dtype, raw), VI32)
            magnitude = builder.and_(bits, every(0x7FFFFFFF))
            more = builder.icmp_unsigned(">", magnitude, found)
            found = builder.select(more, magnitude, found)
        insert: Any = cgutils.get_or_insert_function
        reduce = insert(
            builder.module, ir.FunctionType(I32, [VI32]), "llvm.vector.reduce.umax.v16i32"
        )
        return builder.bitcast(builder.call(reduce, [found]), F32)

    return signature, generate


def _take_through(typingctx, kind, at, largest, scale, table, flush):  # type: ignore[no-untyped-def]
    """Numba intrinsic `(kind, at, largest, scale, table, flush) -> void`: 64 numbers at an address."""
    dtype = STORED[kind]
    signature = types.void(
        kind, types.uintp, types.float32, types.float32, types.uintp, types.int32
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _, at, largest, scale, table, flush = args
        entries = builder.inttoptr(table, F32.as_pointer())
        levels, bounds = (
            [
                splat(builder, builder.load(builder.gep(entries, [ir.Constant(I64, n)])), VF32)
                for n in which
            ]
            for which in (range(16), range(16, 31))
        )
        least = ir.Constant(F32, float(np.float32(1e-38)))
        divisor = builder.select(builder.fcmp_ordered("<", largest, least), least, largest)
        inverse = splat(builder, builder.fdiv(ir.Constant(F32, 1.0), divisor), VF32)
        scales = splat(builder, scale, VF32)
        keep = splat(builder, builder.icmp_signed("==", flush, ir.Constant(I32, 0)), TRUTH)
        pointer = pointer_to(builder, dtype, at)
        for n, raw in enumerate(_load_block(builder, dtype, at)):
            quotient = builder.fmul(widen(builder, dtype, raw), inverse)
            level = levels[0]
            for bound, above in zip(bounds, levels[1:], strict=True):
                level = builder.select(builder.fcmp_ordered(">", quotient, bound), above, level)
            new = scaled(builder, dtype, level, scales, keep)
            store(builder, dtype, new, pointer, ir.Constant(I64, n * LANES))
        return context.get_dummy_value()

    return signature, generate


def _load_block(builder: ir.IRBuilder, dtype: StoredDtype, at: Any) -> list[Any]:
    kind, pointer = stored_vector(dtype), pointer_to(builder, dtype, at)
    return [
        load(builder, pointer, ir.Constant(I64, n), kind, SIZE[dtype])
        for n in range(0, BLOCK, LANES)
    ]


_find: Any = intrinsic(_find_largest)
_take: Any = intrinsic(_take_through)


def _largest_array(weight, found):  # type: ignore[no-untyped-def]
    for n in range(found.size):
        found[n] = _find(weight[0], weight.ctypes.data + n * BLOCK * weight.itemsize)


def _through_array(weight, scales, table, flush):  # type: ignore[no-untyped-def]
    finite = True
    for n in range(weight.size // BLOCK):
        at = weight.ctypes.data + n * BLOCK * weight.itemsize
        largest = _find(weight[0], at)
        finite = finite and largest <= _MOST
        scale = scales[n] if scales.size else largest
        _take(weight[0], at, largest, scale, table.ctypes.data, flush)
    return finite


_MOST = np.finfo(np.float32).max
_largest_of_blocks: Any = compiled(_largest_array)
_through: Any = compiled(_through_array)
