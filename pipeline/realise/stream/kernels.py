"""Fold a low-rank delta into rows of a weight, in the buffer that they were read into.

No torch here: a plain LoRA merge must not pay for its import. numba keeps the compiled code in its cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.realise.stream.compiling import compiled
from pipeline.realise.stream.tiles import CHANGED, COLUMNS, NOT_FINITE, ROWS, tile
from pipeline.realise.stream.vectors import BITS, StoredDtype

__all__ = ["BITS", "CHANGED", "NOT_FINITE", "ROWS", "Factors", "fold_rows", "padded"]


@dataclass(frozen=True)
class Factors:
    """Of one delta."""

    a: NDArray[np.float32]
    """[rank, columns padded to a multiple of 64]."""
    b: NDArray[np.float32]
    """[rows padded to a multiple of 4, rank]."""
    scale: float


def padded(a: NDArray[np.float32], b: NDArray[np.float32], scale: float) -> Factors:
    """Factors from A [rank, columns] and B [rows, rank]; zeros fill the edge tiles."""
    rank, columns = a.shape
    wide = np.zeros((rank, -(-columns // COLUMNS) * COLUMNS), np.float32)
    wide[:, :columns] = a
    tall = np.zeros((-(-len(b) // ROWS) * ROWS, rank), np.float32)
    tall[: len(b)] = b
    return Factors(wide, tall, scale)


def fold_rows(
    block: memoryview, dtype: StoredDtype, columns: int, delta: Factors, first: int
) -> int:
    """Add the delta to whole rows of a weight, in place; returns CHANGED and NOT_FINITE, or-ed.

    `block` holds the raw rows; `first`, a multiple of 4, is the row of `delta.b` that its first row takes.
    """
    rows = np.frombuffer(block, BITS[dtype]).reshape(-1, columns)
    edge = np.zeros((ROWS, COLUMNS), BITS[dtype])
    return int(_fold(rows, delta.a, delta.b[first:], np.float32(delta.scale), edge))


def _fold_array(weight, a, b, scale, edge):  # type: ignore[no-untyped-def]
    rows, columns = weight.shape
    rank, stride = a.shape
    kind, size = edge[0, 0], weight.itemsize
    whole_rows, whole_columns = rows // ROWS * ROWS, columns // COLUMNS * COLUMNS
    at, a_at, b_at = weight.ctypes.data, a.ctypes.data, b.ctypes.data
    flags = 0
    # Columns outside: the panel of A that a column of tiles needs stays in the nearest cache.
    for j in range(0, whole_columns, COLUMNS):
        for i in range(0, whole_rows, ROWS):
            flags |= tile(
                kind, at + size * (i * columns + j), columns,
                a_at + 4 * j, stride, b_at + 4 * i * rank, rank, rank, scale,
            )  # fmt: skip
    for i in range(0, rows, ROWS):
        height = min(ROWS, rows - i)
        for j in range(0 if i >= whole_rows else whole_columns, columns, COLUMNS):
            width = min(COLUMNS, columns - j)
            edge[:] = 0
            edge[:height, :width] = weight[i : i + height, j : j + width]
            flags |= tile(
                kind, edge.ctypes.data, COLUMNS,
                a_at + 4 * j, stride, b_at + 4 * i * rank, rank, rank, scale,
            )  # fmt: skip
            weight[i : i + height, j : j + width] = edge[:height, :width]
    return flags


_fold: Any = compiled(_fold_array)
