"""Memory of this process: its peak over a stretch of time, whether it ran out, and its garbage."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_SYSTEM = Path("/proc/meminfo")


def reset_peak() -> None:
    """Begin a new stretch. Where the system cannot (outside Linux), the peak stays that of the process."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """Most resident bytes since `reset_peak`."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """Do not look for garbage meanwhile. Imports and plans make hundreds of thousands of objects that stay,
    and Python would go through them again and again: a tenth of a second in every start."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever type the library chose, says that memory is used up."""
    text = str(error)
    return isinstance(error, MemoryError) or any(
        said in text for said in ("out of memory", "can't allocate memory")
    )


def free_bytes(device: str = "cpu") -> int | None:
    """Memory that is free on a device; None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = _SYSTEM.read_text().splitlines() if device == "cpu" else []
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")), None)
