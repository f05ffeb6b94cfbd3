"""BLAKE3 of files, several at a time; docs/decisions/008 says why that one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from blake3 import blake3

from pipeline.checkpoint.identity import identity
from pipeline.checkpoint.remembered import Remembered

_BLOCK = 1 << 20


class HashingAside:
    """Inputs that are hashed in threads of their own while other work goes on."""

    def __init__(self, files: Sequence[Path], *, threads: int = 2) -> None:
        self.files = frozenset(files)
        self.bytes = sum(file.stat().st_size for file in files)
        self._done = 0.0
        self._stopped = Event()
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._hashes = self._pool.submit(hash_inputs, files, self._advance, threads=threads)

    def result(self, advance: Callable[[float], None]) -> dict[Path, str]:
        """Wait for the hashes, telling `advance` of the bytes read, all of them in the end."""
        told = 0.0
        while not wait([self._hashes], timeout=0.1).done:
            done = self._done
            advance(done - told)
            told = done
        hashes = self._hashes.result()
        advance(self.bytes - told)
        return hashes

    def stop(self) -> None:
        """Give up what is not hashed yet."""
        self._stopped.set()
        self._pool.shutdown()

    def _advance(self, count: float) -> None:
        if self._stopped.is_set():
            raise CancelledError
        self._done += count


def hash_inputs(
    files: Iterable[Path],
    advance: Callable[[float], None] = lambda count: None,
    *,
    threads: int | None = None,
) -> dict[Path, str]:
    """Like `hash_files`, but a large file that has not changed since an earlier run is not read again."""
    remembered = Remembered()
    before = {file: identity(file) for file in dict.fromkeys(files)}
    known = {file: found for file, who in before.items() if (found := remembered.hash_of(who))}
    for file in known:
        advance(before[file].bytes)
    new = hash_files([file for file in before if file not in known], advance, threads=threads)
    remembered.keep({before[file]: found for file, found in new.items()})
    return {**known, **new}


def hash_files(
    files: Iterable[Path],
    advance: Callable[[float], None] = lambda count: None,
    *,
    threads: int | None = None,
) -> dict[Path, str]:
    """The hash (hex) of each file. `advance` is told of the bytes read since the last time.

    blake3 lets other threads run while it works, so the files of a model go in parallel.
    """
    lock = Lock()

    def tell(count: int) -> None:
        with lock:
            advance(count)

    paths = list(dict.fromkeys(files))
    with ThreadPoolExecutor(max_workers=threads or min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(lambda path: hash_file(path, tell), paths), strict=True))


def hash_file(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    """The BLAKE3 (256 bits, hex) of one file."""
    digest = blake3()
    buffer = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            advance(count)
    return digest.hexdigest()
