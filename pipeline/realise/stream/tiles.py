"""The inner loop of the streaming merge, as LLVM vectors: W += scale * (B @ A) on a tile of raw bytes.

The product is a sequential fused multiply-add over the rank, which gives the same bits as torch's float32
product on a CPU up to rank 128, on any processor. A tile of 4 rows by 64 columns keeps its 256 sums in
vector registers; the compiler does not find that blocking by itself (docs/performance.md has figures).
"""

from __future__ import annotations

from typing import Any, Literal

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Stored = Literal["BF16", "F16", "F32"]
"""Dtypes of weights that can be folded into, as safetensors spells them."""

ROWS, COLUMNS = 4, 64
"""Of a tile."""
CHANGED, NOT_FINITE = 1, 2
"""Bits of what a tile tells: some element has other bits than before; some is NaN or infinite."""

_LANES = 16
_VECTORS = COLUMNS // _LANES
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VF32 = ir.VectorType(_F32, _LANES)
_VI32 = ir.VectorType(_I32, _LANES)
_VI16 = ir.VectorType(ir.IntType(16), _LANES)
_VF16 = ir.VectorType(ir.HalfType(), _LANES)


def _all(value: int) -> ir.Constant:
    return ir.Constant(_VI32, [value] * _LANES)


def _splat(builder: ir.IRBuilder, scalar: Any, kind: ir.VectorType) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_VI32, [0] * _LANES))


def _widen(builder: ir.IRBuilder, dtype: Stored, raw: Any) -> Any:
    """Stored vector -> float32 vector; exact for every dtype."""
    if dtype == "F32":
        return builder.bitcast(raw, _VF32)
    if dtype == "F16":
        return builder.fpext(builder.bitcast(raw, _VF16), _VF32)
    return builder.bitcast(builder.shl(builder.zext(raw, _VI32), _all(16)), _VF32)


def _narrow(builder: ir.IRBuilder, dtype: Stored, value: Any) -> Any:
    """float32 vector -> stored vector, to nearest, ties to even, as torch rounds.

    bfloat16 is rounded by integer arithmetic: the processor's own instruction flushes denormals.
    """
    if dtype == "F32":
        return builder.bitcast(value, _VI32)
    if dtype == "F16":
        return builder.bitcast(builder.fptrunc(value, _VF16), _VI16)
    bits = builder.bitcast(value, _VI32)
    odd = builder.and_(builder.lshr(bits, _all(16)), _all(1))
    rounded = builder.lshr(builder.add(builder.add(bits, _all(0x7FFF)), odd), _all(16))
    magnitude = builder.and_(bits, _all(0x7FFFFFFF))
    nan = builder.icmp_unsigned(">", magnitude, _all(0x7F800000))
    return builder.trunc(builder.select(nan, _all(0x7FC0), rounded), _VI16)


def _exponent_full(builder: ir.IRBuilder, dtype: Stored, raw: Any) -> Any:
    """Vector of truth: is the stored number NaN or infinite?"""
    mask = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
    wide = raw if dtype == "F32" else builder.zext(raw, _VI32)
    return builder.icmp_unsigned("==", builder.and_(wide, _all(mask)), _all(mask))


STORED: dict[Any, Stored] = {types.uint16: "BF16", types.int16: "F16", types.uint32: "F32"}
"""The integers under which numpy sees the raw elements of each dtype; they tell the tile which it is."""


def _tile(  # type: ignore[no-untyped-def]
    typingctx, kind, w, ldw, a, lda, b, ldb, rank, scale
):
    """Numba intrinsic `(kind, w, ldw, a, lda, b, ldb, rank, scale) -> flags`: one tile, in place.

    `kind` is any element of the weight, for its type. Addresses come as integers, leading dimensions in
    elements: `a` is float32 [rank, >= 64], `b` float32 [4, rank], `w` the stored dtype [4, >= 64].
    """
    pointer, count = types.uintp, types.intp
    dtype = STORED[kind]
    stored = _VI32 if dtype == "F32" else _VI16
    size = 4 if dtype == "F32" else 2
    signature = types.int32(
        kind, pointer, count, pointer, count, pointer, count, count, types.float32
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _, w, ldw, a, lda, b, ldb, rank, scale = args
        w_pointer = builder.inttoptr(w, ir.IntType(size * 8).as_pointer())
        a_pointer = builder.inttoptr(a, _F32.as_pointer())
        b_pointer = builder.inttoptr(b, _F32.as_pointer())
        insert: Any = cgutils.get_or_insert_function
        fma = insert(builder.module, ir.FunctionType(_VF32, [_VF32] * 3), "llvm.fma.v16f32")
        before = builder.block
        loop, end = builder.append_basic_block("rank"), builder.append_basic_block("store")
        builder.branch(loop)

        builder.position_at_end(loop)
        k = builder.phi(_I64)
        k.add_incoming(ir.Constant(_I64, 0), before)
        sums = [[builder.phi(_VF32) for _ in range(_VECTORS)] for _ in range(ROWS)]
        a_row = builder.mul(k, lda)
        columns = [
            _load(builder, a_pointer, builder.add(a_row, ir.Constant(_I64, v * _LANES)), _VF32, 4)
            for v in range(_VECTORS)
        ]
        totals = []
        for i in range(ROWS):
            offset = builder.add(builder.mul(ir.Constant(_I64, i), ldb), k)
            factor = _splat(builder, builder.load(builder.gep(b_pointer, [offset])), _VF32)
            row = [builder.call(fma, [factor, columns[v], sums[i][v]]) for v in range(_VECTORS)]
            for v in range(_VECTORS):
                sums[i][v].add_incoming(ir.Constant(_VF32, [0.0] * _LANES), before)
                sums[i][v].add_incoming(row[v], loop)
            totals.append(row)
        following = builder.add(k, ir.Constant(_I64, 1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, rank), loop, end)

        builder.position_at_end(end)
        scales = _splat(builder, scale, _VF32)
        changed = ir.Constant(stored, [0] * _LANES)
        broken = ir.Constant(ir.VectorType(ir.IntType(1), _LANES), [0] * _LANES)
        for i in range(ROWS):
            for v in range(_VECTORS):
                offset = builder.add(
                    builder.mul(ir.Constant(_I64, i), ldw), ir.Constant(_I64, v * _LANES)
                )
                old = _load(builder, w_pointer, offset, stored, size)
                delta = builder.fmul(totals[i][v], scales)
                new = _narrow(builder, dtype, builder.fadd(_widen(builder, dtype, old), delta))
                where = builder.bitcast(builder.gep(w_pointer, [offset]), stored.as_pointer())
                builder.store(new, where).align = size
                changed = builder.or_(changed, builder.xor(old, new))
                broken = builder.or_(broken, _exponent_full(builder, dtype, new))
        any_changed = builder.icmp_unsigned("!=", changed, ir.Constant(stored, [0] * _LANES))
        flags = [(any_changed, CHANGED), (broken, NOT_FINITE)]
        result: Any = ir.Constant(_I32, 0)
        for vector, flag in flags:
            word = builder.bitcast(vector, ir.IntType(_LANES))
            some = builder.icmp_unsigned("!=", word, ir.Constant(ir.IntType(_LANES), 0))
            result = builder.or_(
                result, builder.select(some, ir.Constant(_I32, flag), ir.Constant(_I32, 0))
            )
        return result

    return signature, generate


tile: Any = intrinsic(_tile)


def _load(builder: ir.IRBuilder, pointer: Any, offset: Any, kind: ir.VectorType, align: int) -> Any:
    where = builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())
    loaded = builder.load(where)
    loaded.align = align
    return loaded
