"""Compile the kernels once for a machine, where there is a place to keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """The function as machine code that lets other threads run, kept in numba's cache if there is one.

    Where neither the code's folder nor the user's cache can be written (a read-only container), numba
    refuses to cache; each process then compiles anew, in some seconds.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:
        return njit(**options)(function)
