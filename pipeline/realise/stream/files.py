"""The open files of a stream: what is read and written at which byte."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.realise.stream.shared import Shared
from pipeline.realise.stream.writing import Chunks, OutputFile

OTHERS = 64
"""Files that a process has open besides those of a stream."""


@dataclass(frozen=True)
class Files:
    """Descriptors of the inputs, the outputs, and what threads have in common."""

    inputs: Mapping[Path, int]
    outputs: Mapping[Path, OutputFile]
    chunks: Chunks
    """Of memory, for all outputs."""
    shared: Shared

    def read(self, path: Path, into: memoryview, at: int) -> None:
        """Fill the buffer. Raises InputError when the file ends before."""
        _fill(self.inputs[path], path, into, at)


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
