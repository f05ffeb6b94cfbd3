"""Files of outputs on their way to the disk: past the page cache, where the file system has that.

In the cache, each page that nobody used for a while has to be got from the machine and zeroed, which costs
more than all else in a merge, and one thread at a time writes a file. Past it, from buffers that are used
again and again, any number do, and what is written is on the disk.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Condition, Lock

import numpy as np

from pipeline.realise.stream.sealing import Front

PAGE = 4096
"""Bytes. What goes past the cache starts and ends at a multiple of it, in the file and in memory."""
SMALL = 64 << 10
"""Fewer bytes are not worth a write of their own past the cache."""
_CLONE = 0x4020940D
"""The ioctl FICLONERANGE of Linux: both files share the blocks from then on, until one is changed."""


class Chunks:
    """Buffers of one size that start at a page, used again and again by the threads of one pass."""

    def __init__(self, size: int, most: int) -> None:
        """`most` are those that threads are filling and those that are kept to be hashed."""
        self.size = size
        self._most = most
        self._out = self._at_work = self._waiting = 0
        self._free: list[memoryview] = []
        self._changed = Condition()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around what a thread does that takes chunks."""
        with self._changed:
            self._at_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def take(self, urgent: Callable[[], bool]) -> memoryview:
        """One to fill. Where too many are kept, threads wait for those whose bytes are `urgent`.

        One thread at least goes on.
        """
        with self._changed:
            while not (self._out < self._most or urgent()) and self._at_work - self._waiting > 1:
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
            self._out += 1
            if self._free:
                return self._free.pop()
        return memoryview(mmap.mmap(-1, self.size))

    def give(self, chunk: memoryview) -> None:
        """Back, to be used again."""
        with self._changed:
            self._out -= 1
            self._free.append(chunk)
            self._changed.notify_all()

    @property
    def suffice(self) -> bool:
        """Whether no more are out than there may be, so that one may be kept."""
        return self._out <= self._most


class OutputFile:
    """One file that threads write in stretches."""

    def __init__(
        self,
        descriptor: int,
        direct: int | None,
        size: int,
        chunks: Chunks,
        complete: Callable[[str], None],
    ) -> None:
        """`direct` is a descriptor that goes past the cache, if there is one. `complete` is told the hash of
        the file, once, by the thread that brings the last bytes."""
        self.descriptor = descriptor
        self._direct = direct
        self._size = size
        self._chunks, self._complete = chunks, complete
        self._front = Front(descriptor, size, chunks.give)
        # The kernel lets one thread at a time into the cache of a file; others would burn a core each.
        self._turn, self._holding = Lock(), Lock()
        self._held: list[tuple[int, bytes]] = []
        self._held_bytes = 0
        self._begun = self._given_up = False

    def stretch(self, at: int) -> Stretch:
        """To write from a byte on."""
        return Stretch(self, at, self._chunks)

    def write(self, data: memoryview, at: int) -> None:
        """Write what is in memory."""
        with closing(self.stretch(at)) as out:
            out.put(data)
            out.finish()

    def take(self, at: int) -> memoryview:
        """A chunk for the bytes from `at` on."""
        return self._chunks.take(lambda: self._direct is None or self._front.comes_next(at))

    def clone(self, source: int, start: int, at: int, length: int) -> bool:
        """Share blocks of another file, if the file systems can; all three are multiples of a page."""
        with self._turn:
            try:
                told = struct.pack("qQQQ", source, start, length, at)
                fcntl.ioctl(self.descriptor, _CLONE, told)
            except OSError:  # of many kinds; where it matters, writing the bytes meets it too
                return False
            self._begun = True
        self.wrote(at, length, None)
        return True

    def write_chunk(self, chunk: memoryview, first: int, last: int, at: int) -> None:
        """Write what is filled of a chunk, have it hashed, and give the chunk back by then."""
        data = chunk[first:last]
        try:
            if not self._given_up:
                self._write(data, at)
            # Through the cache, it is there to be read again.
            keep = self._front.comes_next(at) or (self._direct is not None and self._chunks.suffice)
            if not keep:
                self.let_go()
        except BaseException:
            self._chunks.give(chunk)
            raise
        if not keep:
            self._chunks.give(chunk)
        self.wrote(at, len(data), (data, chunk) if keep else None)

    def wrote(self, at: int, length: int, kept: tuple[memoryview, memoryview] | None) -> None:
        """Have bytes hashed that are written, or else given back."""
        self._front.wrote(at, length, kept)
        if self._given_up:
            self._front.give_up()
            return
        digest = self._front.follow()
        if digest is not None:
            self._complete(digest)

    def give_up(self) -> None:
        """Write no more of it, and leave the memory to other files."""
        self._given_up = True
        self._front.give_up()
        with self._holding:
            self._held = []

    def sync(self) -> None:
        """Have all on disk."""
        self.let_go()
        os.fsync(self.descriptor)

    def _write(self, data: memoryview, at: int) -> None:
        direct = self._direct
        if direct is None:
            with self._turn:
                write_all(self.descriptor, data, at)
            return
        self._begin()
        first = min(-at % PAGE, len(data))
        last = max(first, len(data) - (at + len(data)) % PAGE)
        if last - first < SMALL:
            first = last = 0
        self._hold(data[:first], at)
        self._hold(data[last:], at + last)
        try:
            write_all(direct, data[first:last], at + first)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that wants larger multiples, or none
                raise
            self._direct = None
            write_all(self.descriptor, data[first:last], at + first)

    def _begin(self) -> None:
        """Set blocks aside before anything else is done to the file."""
        with self._turn:
            if not self._begun:
                set_aside(self.descriptor, self._size)
            self._begun = True

    def _hold(self, data: memoryview, at: int) -> None:
        """Keep a few bytes back: one write through the cache shuts out all that go past it."""
        if not data:
            return
        with self._holding:
            self._held.append((at, bytes(data)))
            self._held_bytes += len(data)
            full = self._held_bytes >= self._chunks.size // 4
        if full:
            self.let_go()

    def let_go(self) -> None:
        """Write what was kept back."""
        with self._holding:
            for at, data in self._held:
                write_all(self.descriptor, memoryview(data), at)
            self._held, self._held_bytes = [], 0


class Stretch:
    """Bytes of a file that follow one another, written by one thread."""

    def __init__(self, file: OutputFile, at: int, chunks: Chunks) -> None:
        self._file, self._chunks = file, chunks
        self._chunk: memoryview | None = None
        self._first = self._last = at % PAGE
        self._base = at - self._first
        """Where the chunk's first byte is in the file."""

    def room(self) -> memoryview:
        """Memory for the next bytes, one at least; `filled` says how many are there."""
        if self._chunk is None:
            self._chunk = self._file.take(self._base + self._last)
        return self._chunk[self._last :]

    def filled(self, count: int) -> None:
        """So many bytes of `room()` are filled."""
        self._last += count
        if self._last == self._chunks.size:
            self.finish()

    def put(self, data: memoryview) -> None:
        """Write bytes that are elsewhere."""
        while data:
            room = self.room()[: len(data)]
            # numpy lets other threads run meanwhile.
            np.copyto(np.frombuffer(room, np.uint8), np.frombuffer(data[: len(room)], np.uint8))
            self.filled(len(room))
            data = data[len(room) :]

    def finish(self) -> None:
        """Write what is still in memory."""
        if self._chunk is None or self._first == self._last:
            return
        chunk, first, last = self._chunk, self._first, self._last
        self._chunk = None
        self._file.write_chunk(chunk, first, last, self._base + first)
        self._base += last // PAGE * PAGE
        self._first = self._last = last % PAGE

    def close(self) -> None:
        """Write no more; what is not written by now is lost."""
        if self._chunk is not None:
            self._chunks.give(self._chunk)
            self._chunk = None


def set_aside(descriptor: int, size: int) -> None:
    """Have the disk give an empty file of that length its blocks, where the file system does that in one go.

    A disk that has too few is met where the bytes are written. Not `posix_fallocate`: where the file system
    cannot, that writes into every page.
    """
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
    if fallocate and fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        os.truncate(descriptor, 0)  # some it may have given
        os.truncate(descriptor, size)


def write_all(descriptor: int, data: memoryview, at: int) -> None:
    """Write bytes to a place of a file."""
    while data:
        count = os.pwrite(descriptor, data, at)
        data, at = data[count:], at + count
