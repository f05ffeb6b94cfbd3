"""Rename folders in one step: onto a free name, or by exchanging two names (Linux's renameat2)."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from pipeline.errors import OutputError

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def rename_new(source: Path, target: Path) -> None:
    """Rename onto a name that must be free; OutputError when somebody has taken it."""
    try:
        if not _renameat2(source, target, _NOREPLACE):
            # Without renameat2: rename(2) refuses a folder that holds anything.
            os.rename(source, target)
    except FileExistsError as error:
        raise _taken(target) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise _taken(target) from error
        raise


def exchange(source: Path, target: Path, *, aside: Path) -> None:
    """Swap two folders, so that `target` is never missing.

    Where the system cannot swap, the old one goes to `aside` first, and then to `source`.
    """
    if _renameat2(source, target, _EXCHANGE):
        return
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except BaseException:
        os.rename(aside, target)
        raise
    os.rename(aside, source)


def _taken(target: Path) -> OutputError:
    return OutputError(
        "somebody else made this folder during the run", where=target, fix="choose another folder"
    )


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Whether the system did it; False when it does not know how to."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(target))
