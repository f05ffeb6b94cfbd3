"""SHA-256 of files, several at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

_BLOCK = 1 << 20


def hash_files(
    files: Iterable[Path], advance: Callable[[float], None] = lambda count: None
) -> dict[Path, str]:
    """The hash (hex) of each file. `advance` is told of the bytes read since the last time.

    hashlib lets other threads run while it works, so the files of a model go in parallel.
    """
    lock = Lock()

    def tell(count: int) -> None:
        with lock:
            advance(count)

    paths = list(dict.fromkeys(files))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(lambda path: hash_file(path, tell), paths), strict=True))


def hash_file(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    """The SHA-256 (hex) of one file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            advance(count)
    return digest.hexdigest()
