"""Vectors of stored numbers in LLVM's own language: loading, widening to float32, rounding back.

What the kernels of the stream are made of. numba's compiler turns them into the widest vectors that the
processor has.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import types

StoredDtype = Literal["BF16", "F16", "F32"]
"""Dtypes of weights that can be changed on the way, as safetensors spells them."""

BITS: dict[StoredDtype, Any] = {"BF16": np.uint16, "F16": np.int16, "F32": np.uint32}
"""The integers under which numpy sees the raw elements of each dtype; they tell a kernel which it is."""
STORED: dict[Any, StoredDtype] = {types.uint16: "BF16", types.int16: "F16", types.uint32: "F32"}
"""The same as numba names them."""

SIZE: dict[StoredDtype, int] = {"BF16": 2, "F16": 2, "F32": 4}
"""Bytes of an element."""

LANES = 16
F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VF32 = ir.VectorType(F32, LANES)
VI32 = ir.VectorType(I32, LANES)
VI16 = ir.VectorType(ir.IntType(16), LANES)
VF16 = ir.VectorType(ir.HalfType(), LANES)
TRUTH = ir.VectorType(ir.IntType(1), LANES)


def every(value: int) -> ir.Constant:
    return ir.Constant(VI32, [value] * LANES)


def splat(builder: ir.IRBuilder, scalar: Any, kind: ir.VectorType) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(VI32, [0] * LANES))


def widen(builder: ir.IRBuilder, dtype: StoredDtype, raw: Any) -> Any:
    """Stored vector -> float32 vector; exact for every dtype."""
    if dtype == "F32":
        return builder.bitcast(raw, VF32)
    if dtype == "F16":
        return builder.fpext(builder.bitcast(raw, VF16), VF32)
    return builder.bitcast(builder.shl(builder.zext(raw, VI32), every(16)), VF32)


def narrow(builder: ir.IRBuilder, dtype: StoredDtype, value: Any) -> Any:
    """float32 vector -> stored vector, to nearest, ties to even, as torch rounds.

    bfloat16 is rounded by integer arithmetic: the processor's own instruction flushes denormals.
    """
    if dtype == "F32":
        return builder.bitcast(value, VI32)
    if dtype == "F16":
        return builder.bitcast(builder.fptrunc(value, VF16), VI16)
    bits = builder.bitcast(value, VI32)
    odd = builder.and_(builder.lshr(bits, every(16)), every(1))
    rounded = builder.lshr(builder.add(builder.add(bits, every(0x7FFF)), odd), every(16))
    magnitude = builder.and_(bits, every(0x7FFFFFFF))
    nan = builder.icmp_unsigned(">", magnitude, every(0x7F800000))
    return builder.trunc(builder.select(nan, every(0x7FC0), rounded), VI16)


def exponent_full(builder: ir.IRBuilder, dtype: StoredDtype, raw: Any) -> Any:
    """Vector of truth: is the stored number NaN or infinite?"""
    mask = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
    wide = raw if dtype == "F32" else builder.zext(raw, VI32)
    return builder.icmp_unsigned("==", builder.and_(wide, every(mask)), every(mask))


def stored_vector(dtype: StoredDtype) -> ir.VectorType:
    """The raw numbers of one vector."""
    return VI32 if dtype == "F32" else VI16


def pointer_to(builder: ir.IRBuilder, dtype: StoredDtype, address: Any) -> Any:
    """An address, given as an integer, as a pointer to raw numbers."""
    return builder.inttoptr(address, ir.IntType(8 * SIZE[dtype]).as_pointer())


def store(builder: ir.IRBuilder, dtype: StoredDtype, value: Any, pointer: Any, offset: Any) -> None:
    where = builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())
    builder.store(value, where).align = SIZE[dtype]


def any_lane(builder: ir.IRBuilder, truth: Any, flag: int) -> Any:
    """The flag as an int32 when some lane of a vector of truth is true, else 0."""
    word = builder.bitcast(truth, ir.IntType(LANES))
    some = builder.icmp_unsigned("!=", word, ir.Constant(ir.IntType(LANES), 0))
    return builder.select(some, ir.Constant(I32, flag), ir.Constant(I32, 0))


def load(builder: ir.IRBuilder, pointer: Any, offset: Any, kind: ir.VectorType, align: int) -> Any:
    where = builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())
    loaded = builder.load(where)
    loaded.align = align
    return loaded
