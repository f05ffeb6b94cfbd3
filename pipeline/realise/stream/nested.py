"""Double quantization: the scales of a weight's 4-bit blocks, themselves taken through 8 bits and back.

As bitsandbytes 0.50 does it on a CPU: less their mean, in groups of 256 divided by the largest, to the
nearest of 256 levels, found by way of a table of 65536 steps.

torch is imported here for the mean: it sums in an order of its own, which depends on its number of threads.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_GROUP = 256
_STEPS = 1 << 16


def nested_scales(scales: Floats) -> Floats:
    """What is left of the scales of a whole weight, [blocks]; NaN when they overflow on the way."""
    import torch

    offset = np.float32(torch.from_numpy(scales).mean().item())
    groups = np.zeros((-(-len(scales) // _GROUP), _GROUP), np.float32)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        groups.reshape(-1)[: len(scales)] = scales - offset
        largest = np.abs(groups).max(axis=1, keepdims=True)
        quotients = groups * (np.float32(1) / largest)
        # Unlike maximum, fmax takes 0 / 0 for the lowest level, as bitsandbytes does.
        steps = (np.fmin(np.fmax(quotients, -1), 1) + np.float32(1)) * np.float32(0.5)
        nearest = (steps * np.float32(_STEPS - 1) + np.float32(0.5)).astype(np.int32)
        found: Floats = _levels()[_nearest()[nearest]] * largest + offset
    return found.reshape(-1)[: len(scales)]


@cache
def _levels() -> Floats:
    """The dynamic type of 8 bits (arXiv:2110.02861): the smaller the number, the fewer its digits."""
    import torch

    found = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        for level in ((edges[:-1] + edges[1:]) / 2 * 10 ** (power - 6)).tolist():
            found += [level, -level]
    return np.sort(np.array(found, np.float32))


@cache
def _nearest() -> NDArray[np.uint8]:
    """The level for each of 65536 equal steps from -1 to 1."""
    levels = _levels()
    middles = (levels[:-1] + levels[1:]) * np.float32(0.5)
    steps = np.float32(2) * np.arange(_STEPS, dtype=np.float32) / np.float32(_STEPS - 1)
    return np.searchsorted(middles, steps - np.float32(1)).astype(np.uint8)
