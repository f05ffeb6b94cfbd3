"""The tensors of a checkpoint by name, read in blocks of rows: without torch, in bounded memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.accounting.layout import Stored
from pipeline.checkpoint.headers import BITS
from pipeline.checkpoint.shards import find_weights
from pipeline.checkpoint.source import Source, locate
from pipeline.errors import InputError

ADAPTER_WEIGHTS = "adapter_model.safetensors"

FLOATS: Mapping[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": None}
"""Dtypes whose values are compared; numpy has no bfloat16."""

_BLOCK = 2 << 20
"""Bytes of a block, or one row where that is longer."""


def find_tensors(reference: str, revision: str | None = None) -> dict[str, Stored]:
    """Every tensor of a model or an adapter: a folder, or an id on the Hub, which is downloaded.

    Raises InputError for what is no checkpoint in safetensors, and for a tensor that lies in two files.
    """
    source = locate(reference, revision)
    names = _weight_files(source)
    folder = source.fetch(names)
    found: dict[str, Stored] = {}
    for name in names:
        for key, info in source.read_header(name).tensors.items():
            if key in found:
                raise InputError(
                    f"lies in {found[key].file.name} and in {name}",
                    where=f"{reference}: {key}",
                    fix="copy or download the model again; one of the files does not belong to it",
                )
            found[key] = Stored(folder / name, info)
    return found


def _weight_files(source: Source) -> tuple[str, ...]:
    if ADAPTER_WEIGHTS in source.files and "config.json" not in source.files:
        return (ADAPTER_WEIGHTS,)
    weights = find_weights(source)
    if weights.pickle:
        raise InputError(
            f"has only pickled weights ({weights.files[0]})",
            where=source.reference,
            fix="convert them to safetensors first",
        )
    return weights.files


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix: experts lie below each other, a kernel is one row."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    split = 1 if len(shape) > 3 else len(shape) - 1
    return math.prod(shape[:split]), math.prod(shape[split:])


def row_blocks(dtype: str, shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of rows of the matrix, each of some megabytes; one range where rows end within a byte."""
    rows, columns = matrix(shape)
    bits = columns * BITS[dtype]
    step = rows if bits % 8 else max(1, _BLOCK * 8 // max(1, bits))
    for first in range(0, rows, max(1, step)):
        yield slice(first, min(rows, first + step))


class Reader:
    """An open tensor."""

    def __init__(self, stored: Stored) -> None:
        self.dtype, self.shape = stored.info.dtype, stored.info.shape
        self._info, self._path = stored.info, stored.file
        self._rows, self._columns = matrix(self.shape)
        self._file = open(stored.file, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def raw(self, rows: slice) -> bytes:
        """The bytes of some rows. Raises InputError when the file ends before."""
        bits = self._columns * BITS[self.dtype]
        start, end = rows.start * bits // 8, -(-rows.stop * bits // 8)
        parts, at = [], self._info.start + start
        while at < self._info.start + end:
            part = os.pread(self._file.fileno(), self._info.start + end - at, at)
            if not part:
                raise InputError(
                    "became shorter while it was read",
                    where=self._path,
                    fix="run again when nothing writes it",
                )
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def floats(self, rows: slice) -> NDArray[Any]:
        """The values of some rows [rows, columns] as float32, or float64 where they are that."""
        return as_floats(self.raw(rows), self.dtype).reshape(-1, self._columns)


def as_floats(raw: bytes, dtype: str) -> NDArray[Any]:
    """Values of one of FLOATS as float32; float64 stays."""
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    values: NDArray[Any] = np.frombuffer(raw, FLOATS[dtype])
    return values if dtype == "F64" else values.astype(np.float32, copy=False)


def same_bytes(a: Stored, b: Stored) -> bool:
    """Whether two tensors of one dtype and shape hold the same bits."""
    with Reader(a) as one, Reader(b) as other:
        return all(one.raw(rows) == other.raw(rows) for rows in row_blocks(one.dtype, one.shape))


def total_bytes(tensors: Mapping[str, Stored]) -> int:
    """Size of the tensors."""
    return sum(stored.info.bytes for stored in tensors.values())
