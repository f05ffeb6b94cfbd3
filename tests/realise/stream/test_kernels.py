"""The kernel's sums are torch's, bit for bit, for every dtype, shape and split into blocks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.accounting.lora import MAX_RANK
from pipeline.realise.stream.kernels import (
    BITS,
    CHANGED,
    NOT_FINITE,
    fold_rows,
    padded,
)

DTYPES: dict[Any, Any] = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
SHAPES = [(4, 64), (64, 256), (130, 70), (3, 5), (1, 1), (257, 129), (7, 640)]


def raw(weight: torch.Tensor, dtype: Any) -> memoryview:
    bits = torch.int32 if dtype == "F32" else torch.int16
    return memoryview(bytearray(weight.contiguous().view(bits).numpy().tobytes()))


def bits(weight: torch.Tensor, dtype: Any) -> Any:
    return np.frombuffer(raw(weight, dtype), BITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 16, 64, MAX_RANK])
def test_folded_rows_have_the_bits_of_torch(dtype: Any, shape: tuple[int, int], rank: int) -> None:
    torch.manual_seed(rank)
    rows, columns = shape
    weight = torch.randn(shape).to(DTYPES[dtype])
    a, b = torch.randn(rank, columns), torch.randn(rows, rank)
    scale = 7 / 3
    block = raw(weight, dtype)

    flags = fold_rows(block, dtype, columns, padded(a.numpy(), b.numpy(), scale), 0)

    weight += (b @ a) * scale
    assert np.array_equal(np.frombuffer(block, BITS[dtype]), bits(weight, dtype))
    assert flags == CHANGED


@pytest.mark.parametrize("split", [4, 8, 20])
def test_a_split_into_blocks_changes_no_bit(split: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(22, 96).to(torch.bfloat16)
    delta = padded(torch.randn(8, 96).numpy(), torch.randn(22, 8).numpy(), 0.5)
    whole, parts = raw(weight, "BF16"), raw(weight, "BF16")
    fold_rows(whole, "BF16", 96, delta, 0)
    for row in range(0, 22, split):
        fold_rows(parts[row * 192 : (row + split) * 192], "BF16", 96, delta, row)
    assert whole == parts


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_values_are_kept(dtype: Any) -> None:
    """A processor's own bfloat16 rounding would flush denormals to zero."""
    tiny = {"BF16": 1e-39, "F16": 1e-6, "F32": 1e-40}[dtype]
    weight = torch.full((4, 64), tiny).to(DTYPES[dtype])
    block = raw(weight, dtype)
    fold_rows(block, dtype, 64, padded(np.full((1, 64), tiny, np.float32), np.ones((4, 1)), 1.0), 0)
    weight += torch.full((4, 64), tiny)
    assert np.array_equal(np.frombuffer(block, BITS[dtype]), bits(weight, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_delta_that_vanishes_is_told(dtype: Any) -> None:
    block = raw(torch.ones(5, 70).to(DTYPES[dtype]), dtype)
    delta = padded(np.full((1, 70), 1e-12, np.float32), np.ones((5, 1), np.float32), 1.0)
    assert fold_rows(block, dtype, 70, delta, 0) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("at", [(0, 0), (4, 69)])
def test_nan_and_overflow_are_told_wherever_they_are(
    dtype: Any, value: float, at: tuple[int, int]
) -> None:
    a, b = np.zeros((1, 70), np.float32), np.zeros((5, 1), np.float32)
    a[0, at[1]], b[at[0], 0] = value, 3.0
    block = raw(torch.ones(5, 70).to(DTYPES[dtype]), dtype)
    assert fold_rows(block, dtype, 70, padded(a, b, 1.0), 0) & NOT_FINITE


def test_without_a_place_for_the_cache_the_kernel_is_compiled_all_the_same(tmp_path: Path) -> None:
    """In a read-only container with no home, numba refuses to cache."""
    code = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from pipeline.realise.stream.kernels import fold_rows, padded\n"
        "block = memoryview(bytearray(4 * 64 * 2))\n"
        "ones = np.ones((1, 64), np.float32), np.ones((4, 1), np.float32)\n"
        "print(fold_rows(block, 'BF16', 64, padded(*ones, 1.0), 0), bytes(block[:2]).hex())\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 803f\n", done.stderr
