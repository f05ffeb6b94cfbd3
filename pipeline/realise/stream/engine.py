"""Write the output's files: threads over ranges of bytes, each read, changed and written in small blocks.

Bytes that are only copied are the kernel's work, and do not pass through this process. Blocks are small
enough to stay in a core's cache between the read and the write. Memory is one block and one pair of factors
a thread, and the scales of one weight where those are quantized too, whatever the size of the model.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.accounting.layout import Delta, Shard, Stored, Tensor
from pipeline.errors import InputError, MergeError
from pipeline.realise.stream import kernels
from pipeline.realise.stream.nested import nested_scales
from pipeline.realise.stream.nf4 import BLOCK as BLOCK_4BIT
from pipeline.realise.stream.nf4 import largest_of_blocks, through_4bit
from pipeline.realise.stream.ranges import ChangedRows, Copied, ranges

BLOCK = 1 << 20
"""Bytes that go through a buffer at a time."""
COPIED_IN_A_TURN = 8 << 20
"""Bytes that the kernel copies at a time."""
Advance = Callable[[float], None]
Make = Callable[[Sequence[Tensor]], Iterable[tuple[str, memoryview]]]
"""Makes the tensors that come from no file, in any order: their keys and bytes."""


@dataclass(frozen=True)
class Files:
    """Descriptors of the inputs by path and of the outputs by name."""

    inputs: Mapping[Path, int]
    outputs: Mapping[str, int]
    turns: Mapping[str, threading.Lock]
    """Writers of one file take turns: the kernel lets only one in, and has the others burn a core each."""

    def read(self, path: Path, into: memoryview, at: int) -> None:
        """Fill the buffer. Raises InputError when the file ends before."""
        while into:
            count = os.preadv(self.inputs[path], [into], at)
            if count == 0:
                raise InputError(
                    "became shorter while it was read",
                    where=path,
                    fix="run again when nothing writes it",
                )
            into, at = into[count:], at + count

    def write(self, name: str, data: memoryview, at: int) -> None:
        with self.turns[name]:
            while data:
                count = os.pwrite(self.outputs[name], data, at)
                data, at = data[count:], at + count

    def copy(self, item: Copied, done: int) -> int:
        """Let the kernel copy a part of the range, from `done` on; returns its length."""
        length = min(item.length - done, COPIED_IN_A_TURN)
        source, target = self.inputs[item.source], self.outputs[item.target]
        with self.turns[item.target]:
            return os.copy_file_range(source, target, length, item.start + done, item.at + done)


@dataclass(frozen=True)
class Done:
    """What became of the weights."""

    changed: frozenset[str]
    """Keys of the tensors that have other bits than the base's."""


def write_shards(
    shards: Sequence[Shard],
    folder: Path,
    *,
    safe: bool,
    advance: Advance,
    make: Make | None = None,
    threads: int | None = None,
) -> Done:
    """Write all files of the output into an existing folder.

    `make` is asked, in this thread, for the tensors that have no base. `advance` is told of bytes written,
    from any thread. Raises MergeError, naming the tensor, when a merged value is NaN or infinite and `safe`;
    InputError when a file of the input ends too early.
    """
    stop, tell = threading.Event(), threading.Lock()
    flags: dict[str, int] = {}

    def note(key: str, found: int) -> None:
        with tell:
            flags[key] = flags.get(key, 0) | found

    def told(count: float) -> None:
        with tell:
            advance(count)

    with _opened(shards, folder) as files, ThreadPoolExecutor(threads or default_threads()) as pool:
        worker = threading.local()

        def do(item: Copied | ChangedRows) -> None:
            if stop.is_set():
                return
            if not hasattr(worker, "buffer"):
                worker.buffer = memoryview(bytearray(BLOCK))
            if isinstance(item, Copied):
                _copy(item, files, worker.buffer, told)
            else:
                found = _change(item, files, worker.buffer, told)
                note(item.tensor.key, found)
                if safe and found & kernels.NOT_FINITE:
                    raise _not_finite(item.tensor)

        futures = [pool.submit(do, item) for item in ranges(shards)]
        try:
            if make is not None:
                _write_made(shards, make, files, told)
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            stop.set()
    return Done(frozenset(key for key, found in flags.items() if found & kernels.CHANGED))


def default_threads() -> int:
    """As many threads as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_floats(tensor: Stored) -> NDArray[np.float32]:
    """A tensor of an adapter's file as float32, in its shape."""
    with open(tensor.file, "rb", buffering=0) as file:
        raw = os.pread(file.fileno(), tensor.info.bytes, tensor.info.start)
    return _as_float32(raw, tensor.info.dtype).reshape(tensor.info.shape)


@contextmanager
def _opened(shards: Sequence[Shard], folder: Path) -> Iterator[Files]:
    """The inputs, and the outputs in their full length, with their headers."""
    with ExitStack() as stack:

        def opened(path: Path, mode: str) -> int:
            return stack.enter_context(open(path, mode, buffering=0)).fileno()

        paths = {t.base.file for shard in shards for t, _ in shard.tensors if t.base is not None}
        inputs = {path: opened(path, "rb") for path in paths}
        outputs = {shard.name: opened(folder / shard.name, "xb") for shard in shards}
        files = Files(inputs, outputs, {name: threading.Lock() for name in outputs})
        for shard in shards:
            os.truncate(outputs[shard.name], shard.size)
            files.write(shard.name, memoryview(shard.header), 0)
        yield files


def _write_made(shards: Sequence[Shard], make: Make, files: Files, advance: Advance) -> None:
    places = {t.key: (s.name, at, t) for s in shards for t, at in s.tensors if t.base is None}
    for key, data in make([tensor for _, _, tensor in places.values()]):
        name, at, tensor = places.pop(key)
        assert len(data) == tensor.bytes, key
        files.write(name, data, at)
        advance(len(data))
    assert not places, f"nothing made {next(iter(places))}"


def _copy(item: Copied, files: Files, buffer: memoryview, advance: Advance) -> None:
    done = 0
    in_kernel = hasattr(os, "copy_file_range")
    while done < item.length:
        count = 0
        if in_kernel:
            try:
                count = files.copy(item, done)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                in_kernel = False
        if count == 0:
            part = buffer[: min(len(buffer), item.length - done)]
            files.read(item.source, part, item.start + done)
            files.write(item.target, part, item.at + done)
            count = len(part)
        done += count
        advance(count)


def _change(item: ChangedRows, files: Files, buffer: memoryview, advance: Advance) -> int:
    tensor, base, row_bytes = item.tensor, item.base, item.row_bytes
    columns = base.info.shape[1]
    deltas = [_factors(delta, item) for delta in tensor.deltas]
    scales = _nested_scales(item, files, buffer)
    step = max(1, len(buffer) // row_bytes // kernels.ROWS) * kernels.ROWS
    if step * row_bytes > len(buffer):
        buffer = memoryview(bytearray(step * row_bytes))
    flags = 0
    for row in range(0, item.count, step):
        block = buffer[: min(step, item.count - row) * row_bytes]
        start = base.info.start + (item.first + row) * row_bytes
        files.read(base.file, block, start)
        if tensor.through:
            first = row * columns // BLOCK_4BIT
            own = scales if scales is None else scales[first:]
            if not through_4bit(block, _stored(tensor), tensor.through.kind, own):
                raise _not_quantizable(tensor)
        for delta in deltas:
            flags |= kernels.fold_rows(block, _stored(tensor), columns, delta, row)
        files.write(item.target, block, item.at + row * row_bytes)
        advance(len(block))
    return flags


def _nested_scales(
    item: ChangedRows, files: Files, buffer: memoryview
) -> NDArray[np.float32] | None:
    """The scales of a whole tensor when they are quantized too, from a first pass over it."""
    tensor = item.tensor
    if tensor.through is None or not tensor.through.double_quant:
        return None
    info, found = item.base.info, []
    for offset in range(0, info.bytes, len(buffer)):
        part = buffer[: min(len(buffer), info.bytes - offset)]
        files.read(item.base.file, part, info.start + offset)
        found.append(largest_of_blocks(part, _stored(tensor)))
    scales = nested_scales(np.concatenate(found))
    if not np.isfinite(scales).all():
        raise _not_quantizable(tensor)
    return scales


def _factors(delta: Delta, item: ChangedRows) -> kernels.Factors:
    b = read_floats(delta.b)[item.first : item.first + item.count]
    return kernels.padded(read_floats(delta.a), b, delta.scale)


def _stored(tensor: Tensor) -> Any:
    return tensor.form.dtype


def _as_float32(raw: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(raw, np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, np.float16).astype(np.float32)
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _not_quantizable(tensor: Tensor) -> MergeError:
    return MergeError(
        "the base's weight holds NaN or infinite values, which cannot be quantized",
        where=tensor.key,
        fix="get the base anew, or load it without quantization",
    )


def _not_finite(tensor: Tensor) -> MergeError:
    adapters = " or ".join(sorted({str(delta.a.file.parent) for delta in tensor.deltas}))
    return MergeError(
        "the merged weight holds NaN or infinite values",
        where=tensor.key,
        fix=f"the training of {adapters} diverged, or its delta overflows the base's dtype: use an "
        "earlier checkpoint of it, or a wider dtype",
    )
