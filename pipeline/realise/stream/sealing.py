"""Files that are written in many places at once: hashed behind the front, and put on disk when complete."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType

from blake3 import blake3


class Sealing:
    """The files of a stream on their way to be complete, hashed and on disk."""

    def __init__(
        self,
        descriptors: Mapping[Path, int],
        sizes: Mapping[Path, int],
        sealed: Callable[[Path, str], None],
    ) -> None:
        """`sealed` is told path and hash of each file once it is on disk, one file after the other."""
        self._descriptors = descriptors
        self._fronts = {path: Front(at, sizes[path]) for path, at in descriptors.items()}
        self._sealed = sealed
        self._pool = ThreadPoolExecutor(1)
        self._ends: list[Future[None]] = []

    def __enter__(self) -> Sealing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=error is not None)

    def wrote(self, path: Path, at: int, length: int, buffer: memoryview) -> None:
        """Note a range that is written, and hash what can be hashed by now. From any thread."""
        front = self._fronts[path]
        front.wrote(at, length)
        digest = front.follow(buffer)
        if digest is not None:
            self._ends.append(self._pool.submit(self._seal, path, digest))

    def wait(self) -> None:
        """Until all that is complete is on disk; raises what went wrong with it."""
        for end in self._ends:
            end.result()

    def _seal(self, path: Path, digest: str) -> None:
        os.fsync(self._descriptors[path])
        self._sealed(path, digest)


class Front:
    """How far one file is written without a gap, and the hash of it so far.

    Whoever writes also hashes, a range or two later, while the bytes are in the page cache: there is no
    second pass over the file when it is complete.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._ahead: list[tuple[int, int]] = []
        self._written = 0
        self._hashed = 0
        self._digest = blake3()
        self._noting, self._hashing = Lock(), Lock()

    def wrote(self, at: int, length: int) -> None:
        """Note a range that is written; each byte once."""
        with self._noting:
            heapq.heappush(self._ahead, (at, at + length))
            while self._ahead and self._ahead[0][0] <= self._written:
                self._written = max(self._written, heapq.heappop(self._ahead)[1])

    def follow(self, buffer: memoryview) -> str | None:
        """Hash up to the front, unless another thread does. The hash (hex), to the thread that ends it."""
        while self._hashed < self._written and self._hashing.acquire(blocking=False):
            try:
                if self._hashed < self._written:
                    self._hash_to(self._written, buffer)
                    if self._hashed == self._size:
                        return self._digest.hexdigest()
            finally:
                self._hashing.release()
        return None

    def _hash_to(self, end: int, buffer: memoryview) -> None:
        while self._hashed < end:
            part = buffer[: min(len(buffer), end - self._hashed)]
            count = os.preadv(self._descriptor, [part], self._hashed)
            if count == 0:
                raise OSError("the file became shorter while it was written")
            self._digest.update(part[:count])
            self._hashed += count
