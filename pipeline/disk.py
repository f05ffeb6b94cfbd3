"""Whether something could not be written for want of room, and of which kind."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NoRoom:
    """Why there is no room, in words for a person."""

    what: str
    fix: str


_KINDS: Mapping[int, NoRoom] = {
    errno.ENOSPC: NoRoom("the disk is full", "free some space on it, or write elsewhere"),
    errno.EDQUOT: NoRoom(
        "your disk quota is used up",
        "remove some of your files there, have the quota raised, or write elsewhere",
    ),
    errno.EFBIG: NoRoom(
        "a file would be larger than may be written here",
        "save smaller files (`max_shard_size`), raise the limit (`ulimit -f`), or write to another disk",
    ),
}


def no_room(error: BaseException) -> NoRoom | None:
    """Which room an error, of whatever type the library chose, says there is none of; None for others."""
    if isinstance(error, OSError):
        return _KINDS.get(error.errno or 0)
    # safetensors wraps the system's error in its own, as text.
    return next((kind for n, kind in _KINDS.items() if f"os error {n})" in str(error)), None)
