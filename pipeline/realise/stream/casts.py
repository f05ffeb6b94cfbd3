"""Round numbers of one dtype to another, as torch casts: to nearest, ties to even, denormals kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.realise.stream.compiling import compiled
from pipeline.realise.stream.tiles import NOT_FINITE
from pipeline.realise.stream.vectors import (
    BITS,
    I64,
    LANES,
    SIZE,
    STORED,
    StoredDtype,
    any_lane,
    exponent_full,
    load,
    narrow,
    pointer_to,
    store,
    stored_vector,
    widen,
)  # fmt: skip

OVERFLOWS = 4
"""Bit of what a cast tells: some element is NaN or infinite now, and was not before."""


def cast(source: memoryview, old: StoredDtype, target: memoryview, new: StoredDtype) -> int:
    """Fill `target` with the numbers of `source`; returns NOT_FINITE and OVERFLOWS, or-ed."""
    values, found = np.frombuffer(source, BITS[old]), np.frombuffer(target, BITS[new])
    edges = np.zeros(LANES, BITS[old]), np.zeros(LANES, BITS[new])
    return int(_cast(values, found, *edges))


def _cast_vector(typingctx, old, new, source, target):  # type: ignore[no-untyped-def]
    """Numba intrinsic `(old, new, source, target) -> flags`: 16 numbers from one address to another."""
    before, after = STORED[old], STORED[new]
    signature = types.int32(old, new, types.uintp, types.uintp)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        first = ir.Constant(I64, 0)
        where = pointer_to(builder, before, args[2])
        raw = load(builder, where, first, stored_vector(before), SIZE[before])
        rounded = narrow(builder, after, widen(builder, before, raw))
        store(builder, after, rounded, pointer_to(builder, after, args[3]), first)
        broken = exponent_full(builder, after, rounded)
        was_finite = builder.not_(exponent_full(builder, before, raw))
        overflown = any_lane(builder, builder.and_(broken, was_finite), OVERFLOWS)
        return builder.or_(any_lane(builder, broken, NOT_FINITE), overflown)

    return signature, generate


_cast_lanes: Any = intrinsic(_cast_vector)


def _cast_array(values, found, old_edge, new_edge):  # type: ignore[no-untyped-def]
    whole = values.size // LANES * LANES
    old, new = old_edge[0], new_edge[0]
    at, to, flags = values.ctypes.data, found.ctypes.data, 0
    for n in range(0, whole, LANES):
        flags |= _cast_lanes(old, new, at + n * values.itemsize, to + n * found.itemsize)
    if whole < values.size:
        rest = values.size - whole
        old_edge[:rest] = values[whole:]
        flags |= _cast_lanes(old, new, old_edge.ctypes.data, new_edge.ctypes.data)
        found[whole:] = new_edge[:rest]
    return flags


_cast: Any = compiled(_cast_array)
