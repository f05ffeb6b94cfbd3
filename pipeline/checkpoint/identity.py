"""What tells a file apart from what it was before, without reading it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """A file as the file system knows it: whatever writes it, or puts another in its place, changes that."""

    path: str
    bytes: int
    modified_ns: int
    status_ns: int
    """Of the last change of content, name or rights; no program can set it at will."""
    inode: int

    @property
    def changed_ns(self) -> int:
        return max(self.modified_ns, self.status_ns)


def identity(file: Path) -> Identity:
    """Of the file itself, where the path is a link. Raises OSError."""
    real = file.resolve()
    found = real.stat()
    return Identity(str(real), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
