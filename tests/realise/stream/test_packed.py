"""Stored 4 and 8 bits become plain numbers with the bits of bitsandbytes."""

from __future__ import annotations

from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch

from pipeline.realise.stream.packed import through_8bit, unpack_4bit, unpack_8bit
from tests.realise.stream.test_kernels import bits, raw
from tests.realise.stream.test_nf4 import DTYPES, KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-30, 1e-38, 1e-40, 1e38])
def test_every_pair_of_codes_of_4_bits(dtype: Any, kind: Any, size: float) -> None:
    torch.manual_seed(0)
    codes = torch.arange(256).repeat(16).to(torch.uint8)
    scales = torch.rand(len(codes) // 32) * (min(size, 1e3) if dtype == "F16" else size)
    scales[0] = 0
    theirs = torch.ops.bitsandbytes.dequantize_4bit(
        codes, scales, 64, kind, (len(scales), 64), DTYPES[dtype]
    )
    target = memoryview(bytearray(theirs.nbytes))
    unpack_4bit(memoryview(codes.numpy()), scales.numpy(), kind, target, dtype)
    expected = bits(theirs, dtype)
    assert np.array_equal(np.frombuffer(target, expected.dtype), expected)


def test_every_code_of_8_bits() -> None:
    torch.manual_seed(0)
    codes = torch.arange(-128, 128).to(torch.int8).repeat(40, 1)
    scales = torch.rand(40) * torch.logspace(-42, 3, 40)
    theirs = bnb.int8_vectorwise_dequant(codes, scales)
    target = memoryview(bytearray(theirs.nbytes))
    unpack_8bit(memoryview(codes.numpy()), scales.numpy(), target)
    assert np.array_equal(np.frombuffer(target, np.uint32), bits(theirs, "F32"))


def test_through_8_bits() -> None:
    torch.manual_seed(0)
    weight = (torch.randn(60, 200) * torch.logspace(-9, 3, 60)[:, None]).half()
    weight[7] = 0
    theirs = bnb.int8_vectorwise_dequant(*bnb.int8_vectorwise_quant(weight.clone())[:2])
    block = raw(weight.float(), "F32")
    assert through_8bit(block, 200)
    assert np.array_equal(np.frombuffer(block, np.uint32), bits(theirs, "F32"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_8_bits_cannot_hold_is_told(value: float) -> None:
    weight = torch.ones(3, 5)
    weight[1, 3] = value
    assert not through_8bit(raw(weight, "F32"), 5)
