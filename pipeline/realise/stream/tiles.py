"""The inner loop of the streaming merge, as LLVM vectors: W += scale * (B @ A) on a tile of raw bytes.

The product is a sequential fused multiply-add over the rank, which gives the same bits as torch's float32
product on a CPU up to rank 128, on any processor. A tile of 4 rows by 64 columns keeps its 256 sums in
vector registers; the compiler does not find that blocking by itself (docs/performance.md has figures).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pipeline.realise.stream.vectors import (
    F32,
    I64,
    LANES,
    SIZE,
    STORED,
    TRUTH,
    VF32,
    any_lane,
    exponent_full,
    load,
    narrow,
    pointer_to,
    splat,
    store,
    stored_vector,
    widen,
)  # fmt: skip

ROWS, COLUMNS = 4, 64
"""Of a tile."""
CHANGED, NOT_FINITE = 1, 2
"""Bits of what a tile tells: some element has other bits than before; some is NaN or infinite."""

_VECTORS = COLUMNS // LANES


def _tile(  # type: ignore[no-untyped-def]
    typingctx, kind, w, ldw, a, lda, b, ldb, rank, scale
):
    """Numba intrinsic `(kind, w, ldw, a, lda, b, ldb, rank, scale) -> flags`: one tile, in place.

    `kind` is any element of the weight, for its type. Addresses come as integers, leading dimensions in
    elements: `a` is float32 [rank, >= 64], `b` float32 [4, rank], `w` the stored dtype [4, >= 64].
    """
    pointer, count = types.uintp, types.intp
    dtype = STORED[kind]
    stored, size = stored_vector(dtype), SIZE[dtype]
    signature = types.int32(
        kind, pointer, count, pointer, count, pointer, count, count, types.float32
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _, w, ldw, a, lda, b, ldb, rank, scale = args
        w_pointer = pointer_to(builder, dtype, w)
        a_pointer = builder.inttoptr(a, F32.as_pointer())
        b_pointer = builder.inttoptr(b, F32.as_pointer())
        insert: Any = cgutils.get_or_insert_function
        fma = insert(builder.module, ir.FunctionType(VF32, [VF32] * 3), "llvm.fma.v16f32")
        before = builder.block
        loop, end = builder.append_basic_block("rank"), builder.append_basic_block("store")
        builder.branch(loop)

        builder.position_at_end(loop)
        k = builder.phi(I64)
        k.add_incoming(ir.Constant(I64, 0), before)
        sums = [[builder.phi(VF32) for _ in range(_VECTORS)] for _ in range(ROWS)]
        a_row = builder.mul(k, lda)
        columns = [
            load(builder, a_pointer, builder.add(a_row, ir.Constant(I64, v * LANES)), VF32, 4)
            for v in range(_VECTORS)
        ]
        totals = []
        for i in range(ROWS):
            offset = builder.add(builder.mul(ir.Constant(I64, i), ldb), k)
            factor = splat(builder, builder.load(builder.gep(b_pointer, [offset])), VF32)
            row = [builder.call(fma, [factor, columns[v], sums[i][v]]) for v in range(_VECTORS)]
            for v in range(_VECTORS):
                sums[i][v].add_incoming(ir.Constant(VF32, [0.0] * LANES), before)
                sums[i][v].add_incoming(row[v], loop)
            totals.append(row)
        following = builder.add(k, ir.Constant(I64, 1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, rank), loop, end)

        builder.position_at_end(end)
        scales = splat(builder, scale, VF32)
        changed = ir.Constant(stored, [0] * LANES)
        broken = ir.Constant(TRUTH, [0] * LANES)
        for i in range(ROWS):
            for v in range(_VECTORS):
                offset = builder.add(
                    builder.mul(ir.Constant(I64, i), ldw), ir.Constant(I64, v * LANES)
                )
                old = load(builder, w_pointer, offset, stored, size)
                delta = builder.fmul(totals[i][v], scales)
                new = narrow(builder, dtype, builder.fadd(widen(builder, dtype, old), delta))
                store(builder, dtype, new, w_pointer, offset)
                changed = builder.or_(changed, builder.xor(old, new))
                broken = builder.or_(broken, exponent_full(builder, dtype, new))
        any_changed = builder.icmp_unsigned("!=", changed, ir.Constant(stored, [0] * LANES))
        changed_flag = any_lane(builder, any_changed, CHANGED)
        return builder.or_(changed_flag, any_lane(builder, broken, NOT_FINITE))

    return signature, generate


tile: Any = intrinsic(_tile)
