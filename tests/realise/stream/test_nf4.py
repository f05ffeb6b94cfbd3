"""Through 4 bits and back with the bits of bitsandbytes, for every dtype, size of numbers and special one."""

from __future__ import annotations

from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch

from pipeline.accounting.processor import has
from pipeline.realise.stream.nested import nested_scales
from pipeline.realise.stream.nf4 import LEVELS, largest_of_blocks, through_4bit
from tests.realise.stream.test_kernels import bits, raw

KINDS: list[Any] = ["nf4", "fp4"]

# Of float16, the plan says that it goes live on other processors.
DTYPES: dict[Any, Any] = {"BF16": torch.bfloat16, "F32": torch.float32}
if has("avx512f"):
    DTYPES["F16"] = torch.float16


def through_bitsandbytes(weight: torch.Tensor, kind: str, nested: bool = False) -> torch.Tensor:
    packed, state = bnb.quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
    return bnb.dequantize_4bit(packed, state)


def through_ours(weight: torch.Tensor, dtype: Any, kind: Any, nested: bool = False) -> Any:
    block = raw(weight, dtype)
    scales = nested_scales(largest_of_blocks(block, dtype)) if nested else None
    assert through_4bit(block, dtype, kind, scales)
    return np.frombuffer(block, bits(weight, dtype).dtype)


def assert_equal(weight: torch.Tensor, dtype: Any, kind: Any, nested: bool = False) -> None:
    ours = through_ours(weight, dtype, kind, nested)
    theirs = bits(through_bitsandbytes(weight, kind, nested), dtype)
    wrong = np.flatnonzero(ours != theirs)
    assert not len(wrong), (len(wrong), wrong[:3], ours[wrong[:3]], theirs[wrong[:3]])


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1.0, 0.02, 1e-6, 1e-30, 1e-37, 1e-39, 1e-42, 1e35])
def test_random_weights(dtype: Any, kind: Any, nested: bool, size: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 448) * (min(size, 1e3) if dtype == "F16" else size)
    weight *= torch.exp(torch.randn(96, 7).repeat_interleave(64, 1))
    weight = weight.to(DTYPES[dtype])
    weight[3], weight[4], weight[5, ::2] = 0, -0.0, -0.0
    assert_equal(weight, dtype, kind, nested)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "F32"])
@pytest.mark.parametrize("largest", [1.0, 0.37, 3e-5, 123.0])
def test_every_number_of_16_bits(dtype: Any, kind: Any, largest: float) -> None:
    """Each number that is no larger than a scale, under that scale."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(DTYPES[dtype])
    scale = torch.tensor(largest).to(DTYPES[dtype])
    small = every[every.abs() <= scale]
    small = torch.nn.functional.pad(small, (0, -len(small) % 63)).view(-1, 63)
    weight = torch.cat([small, scale.expand(len(small), 1)], dim=1)
    assert_equal(weight, dtype, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_at_the_bounds_between_levels(kind: Any) -> None:
    """Where the nearest level changes, and one float32 to each side of it."""
    levels = LEVELS[kind]
    middles = (levels[:-1] + levels[1:]) / np.float32(2)
    around = [np.nextafter(middles, np.float32(x)) for x in (-2, 2)]
    row = torch.from_numpy(np.concatenate([middles, *around]).astype(np.float32))
    weight = torch.nn.functional.pad(row, (0, 64 - len(row)), value=1.0).view(1, 64)
    assert_equal(weight, "F32", kind)
    assert_equal(weight * 0.3, "F32", kind)


@pytest.mark.parametrize("blocks", [1, 2, 255, 256, 257, 40_000])
def test_scales_through_8_bits(blocks: int) -> None:
    torch.manual_seed(blocks)
    scales = torch.rand(blocks) * torch.exp(torch.randn(blocks))
    offset = scales.mean()
    packed, state = bnb.quantize_blockwise(scales - offset, blocksize=256)
    theirs = bnb.dequantize_blockwise(packed, state) + offset
    assert np.array_equal(nested_scales(scales.numpy()), theirs.numpy())


@pytest.mark.parametrize("values", [[1e-42, 2e-42, 3e-42], [0.0, 0.0], [1.5, 1.5, 1.5]])
def test_scales_that_hardly_differ_through_8_bits(values: list[float]) -> None:
    """Where the reciprocal of the largest difference overflows, or there is no difference."""
    scales = torch.tensor(values)
    packed, state = bnb.quantize_blockwise(scales - scales.mean(), blocksize=256)
    theirs = bnb.dequantize_blockwise(packed, state) + scales.mean()
    assert nested_scales(scales.numpy()).tobytes() == theirs.numpy().tobytes()


def test_scales_that_overflow_are_not_finite() -> None:
    assert not np.isfinite(nested_scales(np.full(300, 3e38, np.float32))).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 63, 191])
def test_nan_and_infinity_are_told(dtype: Any, value: float, at: int) -> None:
    weight = torch.ones(3, 64).to(DTYPES[dtype])
    weight.view(-1)[at] = value
    assert not through_4bit(raw(weight, dtype), dtype, "nf4")
