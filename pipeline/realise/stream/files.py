"""The open files of a stream: what is read and written at which byte."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.realise.stream.ranges import Copied

COPIED_IN_A_TURN = 8 << 20
"""Bytes that the kernel copies at a time."""


@dataclass(frozen=True)
class Files:
    """Descriptors of the inputs and of the outputs."""

    inputs: Mapping[Path, int]
    outputs: Mapping[Path, int]
    turns: Mapping[Path, threading.Lock]
    """Writers of one file take turns: the kernel lets only one in, and has the others burn a core each."""

    def read(self, path: Path, into: memoryview, at: int) -> None:
        """Fill the buffer. Raises InputError when the file ends before."""
        _fill(self.inputs[path], path, into, at)

    def write(self, path: Path, data: memoryview, at: int) -> None:
        with self.turns[path]:
            while data:
                count = os.pwrite(self.outputs[path], data, at)
                data, at = data[count:], at + count

    def copy(self, item: Copied, done: int) -> int:
        """Let the kernel copy a part of the range, from `done` on; returns its length."""
        length = min(item.length - done, COPIED_IN_A_TURN)
        source, target = self.inputs[item.source], self.outputs[item.target]
        with self.turns[item.target]:
            return os.copy_file_range(source, target, length, item.start + done, item.at + done)


def read_bytes(path: Path, at: int, count: int) -> bytearray:
    """So many bytes of a file. Raises InputError when the file ends before."""
    data = bytearray(count)
    with open(path, "rb", buffering=0) as file:
        _fill(file.fileno(), path, memoryview(data), at)
    return data


def _fill(descriptor: int, path: Path, into: memoryview, at: int) -> None:
    while into:
        count = os.preadv(descriptor, [into], at)
        if count == 0:
            raise InputError(
                "became shorter while it was read",
                where=path,
                fix="run again when nothing writes it",
            )
        into, at = into[count:], at + count


def may_be_open(wanted: int) -> int:
    """Files that this process may have open; the limit is raised to `wanted` as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
