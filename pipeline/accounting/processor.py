"""What this processor can do: how much at a time, and how bitsandbytes rounds on it."""

from __future__ import annotations

import os
from functools import cache


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def has(feature: str) -> bool:
    """Whether the processor has instructions such as `avx512f` or `avx512bf16`, as LLVM names them."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get(feature, False))
