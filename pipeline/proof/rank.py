"""How many directions a difference of two matrices has, above what rounding alone would make.

A randomized range finder (Halko, Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061): a first pass
over the difference D [rows, columns] multiplies it by random rows, which gives a basis of what it spans; a
second one measures D along that basis. Both go block by block, so memory is that of the basis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAP = 128
"""Larger ranks are told as `more than`."""
_SPARE = 16
"""Directions beyond the cap, so that the last ones below it are found well."""
_RELATIVE = 1e-4
"""Of the largest singular value: below it, products in float32 tell nothing."""

EPSILON: Mapping[str, float] = {"F64": 2**-52, "F32": 2**-23, "F16": 2**-10, "BF16": 2**-7}
"""From 1 to the next number of each dtype."""


class Basis:
    """What the rows of a difference span, found in a first pass."""

    def __init__(self, columns: int) -> None:
        self._width = CAP + _SPARE
        self._columns = columns
        self._random = np.random.default_rng(0)
        self._small = columns <= self._width
        self._sketch = None if self._small else np.zeros((self._width, columns), np.float32)

    def add(self, difference: NDArray[Any]) -> None:
        """Take in a block of rows."""
        if self._sketch is not None:
            rows = self._random.standard_normal((self._width, len(difference)), np.float32)
            self._sketch += rows @ difference.astype(np.float32, copy=False)

    def finish(self) -> NDArray[Any]:
        """An orthonormal basis [columns, width]."""
        if self._sketch is None:
            return np.eye(self._columns, dtype=np.float32)
        return np.linalg.qr(self._sketch.T)[0]


def singular_values(gram: NDArray[Any]) -> NDArray[Any]:
    """Of a matrix T by T'T [width, width], the largest first."""
    values: NDArray[Any] = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    return values[::-1]


def numerical_rank(values: NDArray[Any], noise: float) -> tuple[int, bool]:
    """How many singular values count, at most CAP, and whether there are more than that."""
    bar = max(noise, _RELATIVE * float(values[0]))
    count = int((values > bar).sum())
    return min(count, CAP), count > CAP


def rounding_noise(dtype: str, mean_square: float, rows: int, columns: int) -> float:
    """A bound of the largest singular value of what rounding to `dtype` adds to a matrix.

    A rounded number is off by a uniform error of one spacing, whose variance is spacing^2 / 12; spread over
    the binades, spacing^2 is epsilon^2 w^2 / 2.16. A matrix of independent errors of deviation s has the
    norm s (sqrt(rows) + sqrt(columns)); it is doubled for matrices whose rows are of different sizes.
    """
    deviation = EPSILON[dtype] * math.sqrt(mean_square / (12 * 2.16))
    return 2 * deviation * (math.sqrt(rows) + math.sqrt(columns))
