"""One writer per output, by a lock file beside it, which a killed process lets go of by itself."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OutputError


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock beside `path` during the block. Raises OutputError when another run holds it."""
    lock = _beside(path)
    handle = _lock(lock, path)
    try:
        yield
    finally:
        # Unlinked while it is held: whoever waits on this inode sees that the name is another one now.
        lock.unlink(missing_ok=True)
        os.close(handle)


def has_writer(path: Path) -> bool:
    """Whether somebody holds the lock beside `path` now."""
    try:
        handle = os.open(_beside(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _lock(lock: Path, path: Path) -> int:
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise OutputError(
                f"cannot be written: {error.strerror}",
                where=path,
                fix="choose a folder that you may write to",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise OutputError(
                "another run is writing it now",
                where=path,
                fix="wait for it, or choose another folder",
            ) from None
        except FileNotFoundError:
            pass
        os.close(handle)
