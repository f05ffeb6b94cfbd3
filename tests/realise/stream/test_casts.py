"""Casts have the bits of torch's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.realise.stream.casts import NOT_FINITE, OVERFLOWS, cast
from tests.realise.stream.test_kernels import DTYPES, bits, raw


def cast_ours(values: torch.Tensor, old: Any, new: Any) -> tuple[memoryview, int]:
    target = memoryview(bytearray(values.numel() * DTYPES[new].itemsize))
    return target, cast(raw(values, old), old, target, new)


def every_number(dtype: Any) -> torch.Tensor:
    """All finite ones of 16 bits; of 32 bits, some around each of bfloat16 and float16."""
    if dtype != "F32":
        all16 = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
        values = all16.view(DTYPES[dtype])
    else:
        near = torch.cat([every_number(d).float().view(torch.int32) for d in ("BF16", "F16")])
        steps = torch.tensor([-(2**15) - 1, -(2**15), -(2**12), -1, 0, 1, 2**12, 2**15, 2**15 + 1])
        values = (near[:, None] + steps.int()).flatten().view(torch.float32)
    return values[values.isfinite()]


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(DTYPES, 2)))
def test_every_number_is_rounded_as_torch_rounds_it(old: Any, new: Any) -> None:
    values = every_number(old)
    ours, flags = cast_ours(values, old, new)
    theirs = values.to(DTYPES[new])
    assert np.array_equal(np.frombuffer(ours, bits(theirs, new).dtype), bits(theirs, new))
    overflows = NOT_FINITE | OVERFLOWS
    assert flags == (overflows if theirs.isinf().any() else 0)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 100])
@pytest.mark.parametrize(("value", "flags"), [(1e5, NOT_FINITE | OVERFLOWS), (np.inf, NOT_FINITE)])
def test_overflow_is_told_from_infinity_wherever_it_is(size: int, value: float, flags: int) -> None:
    for at in range(size):
        values = torch.ones(size)
        values[at] = value
        assert cast_ours(values, "F32", "F16")[1] == flags
    assert cast_ours(torch.ones(size), "F32", "F16")[1] == 0


@pytest.mark.parametrize("new", DTYPES)
def test_nan_stays_nan(new: Any) -> None:
    target, flags = cast_ours(torch.full((20,), float("nan")), "F32", new)
    held = torch.frombuffer(target, dtype=DTYPES[new])
    assert held.isnan().all()
    assert flags == NOT_FINITE
