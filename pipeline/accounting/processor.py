"""What this processor can do: how much at a time, and how bitsandbytes rounds on it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: microseconds of processors, and in how many of time."""


def cores(processes: int = 1) -> int:
    """How many this process may use, if it is one of so many that work beside each other; 1 at least.

    `OMP_NUM_THREADS` is heeded as by other libraries: it is how schedulers say what a job was given.
    """
    there = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    share = max(1, min(there, _quota() or there) // processes)
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one number for each nesting
    return min(share, int(said)) if said.isdecimal() and int(said) else share


def _quota() -> int | None:
    """Processors that a container may keep busy, or None where nothing limits it."""
    try:
        much, each = _QUOTA.read_text().split()
        return max(1, int(much) // int(each))
    except (OSError, ValueError):  # no such file, or `max`
        return None


@cache
def has(feature: str) -> bool:
    """Whether the processor has instructions such as `avx512f` or `avx512bf16`, as LLVM names them."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get(feature, False))
