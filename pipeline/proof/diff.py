"""Two checkpoints held against each other, tensor by tensor, in bounded memory and without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.accounting.layout import Form, Stored
from pipeline.checkpoint.headers import BITS
from pipeline.proof.rank import EPSILON, Basis, numerical_rank, rounding_noise, singular_values
from pipeline.proof.tensors import FLOATS, Reader, matrix, row_blocks, same_bytes

Status = Literal["equal", "changed", "dtype", "shape", "only in A", "only in B"]
Advance = Callable[[float], None]

_AT_A_TIME = 4
"""Tensors; each takes some 50 MB."""


@dataclass(frozen=True)
class Change:
    """By how much the values of a tensor differ. NaN where either holds NaN or infinite values."""

    norm: float
    """Of B - A: the root of the sum of squares."""
    relative: float
    """The norm over that of A; infinite where A is zero."""
    largest: float
    """Largest absolute difference of any element."""
    share: float
    """Of the elements that differ."""
    rank: int | None = None
    """Directions of B - A above rounding; None for vectors, and where a value is not finite."""
    rank_more: bool = False
    """Whether there are more than `rank`, which is then the most that is counted."""


@dataclass(frozen=True)
class Difference:
    """What became of one tensor from A to B."""

    key: str
    status: Status
    a: Form | None
    b: Form | None
    change: Change | None = None
    """None where the tensors are equal or cannot be compared: other shapes, or values that are no floats."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data. JSON has no infinity and no NaN: such a figure is the word."""
        figures = vars(self.change) if self.change else {}
        return {
            "tensor": self.key,
            "status": self.status,
            "a": _form_dict(self.a),
            "b": _form_dict(self.b),
            **{
                name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in figures.items()
            },
        }


def compare_tensors(
    a: Mapping[str, Stored], b: Mapping[str, Stored], advance: Advance = lambda count: None
) -> Iterator[Difference]:
    """Each tensor of either, layer 2 before layer 10. `advance` is told of the bytes of A that are done with.

    Several are compared at a time, each by one thread. Equal means equal in every bit. Raises InputError when
    a file changes meanwhile.
    """
    keys = sorted({*a, *b}, key=_numbers_as_numbers)
    with ThreadPoolExecutor(min(_AT_A_TIME, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda key: _compare(key, a.get(key), b.get(key)), keys)
        for key, difference in zip(keys, found, strict=True):
            yield difference
            advance(a[key].info.bytes if key in a else 0)


def _numbers_as_numbers(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in key.split(".")]


def _compare(key: str, a: Stored | None, b: Stored | None) -> Difference:
    if a is None or b is None:
        status: Status = "only in A" if b is None else "only in B"
        return Difference(key, status, _form(a), _form(b))
    both = Difference(key, "equal", _form(a), _form(b))
    if a.info.shape != b.info.shape:
        return Difference(key, "shape", both.a, both.b)
    other = a.info.dtype != b.info.dtype
    if not other and same_bytes(a, b):
        return both
    floats = a.info.dtype in FLOATS and b.info.dtype in FLOATS
    change = _measure(a, b) if floats and a.info.bytes else None
    return Difference(key, "dtype" if other else "changed", both.a, both.b, change)


@dataclass
class _Sums:
    """What a pass over both tensors adds up."""

    a: float = 0.0
    b: float = 0.0
    difference: float = 0.0
    largest: float = 0.0
    differing: int = 0
    blocks: list[slice] = field(default_factory=list)
    """Those with a difference."""


def _measure(a: Stored, b: Stored) -> Change:
    shape = a.info.shape
    rows, columns = matrix(shape)
    sums, basis = _Sums(), Basis(columns) if len(shape) > 1 else None
    wide = max(a.info.dtype, b.info.dtype, key=lambda dtype: BITS[dtype])
    with Reader(a) as one, Reader(b) as other, np.errstate(all="ignore"):
        for block in row_blocks(wide, shape):
            _add(sums, block, one.floats(block), other.floats(block), basis)
        found = Change(
            norm=math.sqrt(sums.difference),
            relative=_ratio(sums.difference, sums.a),
            largest=sums.largest,
            share=sums.differing / math.prod(shape),
        )
        if basis is None or not math.isfinite(found.norm) or not sums.blocks:
            return found
        gram = _along(basis.finish(), one, other, sums.blocks)
    coarse = max(a.info.dtype, b.info.dtype, key=lambda dtype: EPSILON[dtype])
    noise = rounding_noise(coarse, sums.b / math.prod(shape), rows, columns)
    rank, more = numerical_rank(singular_values(gram), noise)
    return Change(**{**vars(found), "rank": rank, "rank_more": more})


def _add(sums: _Sums, block: slice, a: NDArray[Any], b: NDArray[Any], basis: Basis | None) -> None:
    difference = b - a
    sums.a += _square(a)
    sums.b += _square(b)
    differing = int(np.count_nonzero(difference))
    if not differing:
        return
    sums.differing += differing
    sums.blocks.append(block)
    sums.difference += _square(difference)
    sums.largest = float(np.maximum(sums.largest, np.abs(difference).max()))
    if basis is not None:
        basis.add(difference)


def _along(
    basis: NDArray[Any], a: Reader, b: Reader, blocks: Sequence[slice]
) -> NDArray[np.float64]:
    """The Gram matrix of the difference along the basis."""
    gram = np.zeros((basis.shape[1],) * 2)
    for block in blocks:
        along = ((b.floats(block) - a.floats(block)) @ basis).astype(np.float64)
        gram += along.T @ along
    return gram


def _square(values: NDArray[Any]) -> float:
    flat = values.ravel()
    return float(np.dot(flat, flat))


def _ratio(difference: float, base: float) -> float:
    if not base:
        return math.inf if difference else 0.0
    return math.sqrt(difference / base)


def _form(stored: Stored | None) -> Form | None:
    return None if stored is None else Form(stored.info.dtype, stored.info.shape)


def _form_dict(form: Form | None) -> dict[str, Any] | None:
    return None if form is None else {"dtype": form.dtype, "shape": list(form.shape)}
