"""Files that are written in many places at once: hashed behind the front, and put on disk when complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType

from blake3 import blake3

_AGAIN = 1 << 20
"""Bytes that are read at a time."""


class Sealing:
    """What is done for files that are complete, in a thread of its own, one after the other."""

    def __init__(self) -> None:
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

    def begin(self, seal: Callable[[], None]) -> None:
        """Have it done soon. From any thread."""
        self._ends.append(self._pool.submit(seal))

    def wait(self) -> None:
        """Until all is done; raises what went wrong."""
        for end in self._ends:
            end.result()


class Front:
    """How far one file is written without a gap, and the hash of it so far.

    Whoever writes also hashes, from memory: there is no second pass over the file when it is complete. Only
    what could not be kept in memory until its turn is read again.
    """

    def __init__(self, descriptor: int, size: int, give: Callable[[memoryview], None]) -> None:
        """`give` takes back the buffers of what is hashed."""
        self._descriptor = descriptor
        self._size = size
        self._give = give
        self._ahead: dict[int, tuple[int, tuple[memoryview, memoryview] | None]] = {}
        self._hashed = 0
        self._digest = blake3()
        self._hashing = Lock()

    def comes_next(self, at: int) -> bool:
        """Whether all before this byte is hashed."""
        return at == self._hashed

    def wrote(self, at: int, length: int, kept: tuple[memoryview, memoryview] | None) -> None:
        """Note a range that is written; each byte once. `kept` are its bytes, and the buffer they are in."""
        if length:
            self._ahead[at] = length, kept

    def follow(self) -> str | None:
        """Hash up to the front, unless another thread does. The hash (hex), to the thread that ends it."""
        while self._hashed in self._ahead and self._hashing.acquire(blocking=False):
            try:
                while (found := self._ahead.pop(self._hashed, None)) is not None:
                    self._hash(*found)
                    if self._hashed == self._size:
                        return self._digest.hexdigest()
            finally:
                self._hashing.release()
        return None

    def give_up(self) -> None:
        """Hash no more, and give all buffers back."""
        for at in list(self._ahead):
            _, kept = self._ahead.pop(at, (0, None))
            if kept is not None:
                self._give(kept[1])

    def _hash(self, length: int, kept: tuple[memoryview, memoryview] | None) -> None:
        if kept is None:
            self._read_again(length)
            self._hashed += length
            return
        data, buffer = kept
        self._digest.update(data)
        self._hashed += length
        self._give(buffer)

    def _read_again(self, length: int) -> None:
        buffer = memoryview(bytearray(min(_AGAIN, length)))
        for at in range(self._hashed, self._hashed + length, len(buffer)):
            part = buffer[: min(len(buffer), self._hashed + length - at)]
            if os.preadv(self._descriptor, [part], at) < len(part):
                raise OSError("the file became shorter while it was written")
            self._digest.update(part)
