"""Write the output's files: threads over ranges of bytes, each read, changed and written in small blocks.

Bytes that are only copied are the kernel's work, and do not pass through this process. Blocks are small
enough to stay in a core's cache between the read and the write. Memory is one block and one pair of factors
a thread, and the scales of one weight where those are quantized too, whatever the size of the model.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.accounting.layout import Shard, Tensor
from pipeline.checkpoint.journal import Finished
from pipeline.realise.stream.files import Files
from pipeline.realise.stream.ranges import ChangedRows, Copied, ranges
from pipeline.realise.stream.rows import Advance, change_rows
from pipeline.realise.stream.sealing import Sealing

BLOCK = 1 << 20
"""Bytes that go through a buffer at a time."""
Make = Callable[[Sequence[Tensor]], Iterable[tuple[str, memoryview, bool]]]
"""Makes the tensors that come from no file, in any order: key, bytes, and whether a merge changed it."""
Wrote = Callable[[str, int, int], None]
"""Told of each range that is written: the file's name, the first byte and the length."""


def write_shards(
    shards: Sequence[Shard],
    folder: Path,
    *,
    safe: bool,
    advance: Advance,
    finished: Callable[[Finished], None],
    make: Make | None = None,
    threads: int | None = None,
) -> None:
    """Write files of the output into an existing folder.

    `finished` is told of each file once it is complete, hashed and on disk, one after the other, from
    another thread. `make` is asked, in this thread, for the tensors that have no base. `advance` is told of
    bytes written, from any thread. Raises MergeError, naming the tensor, when a merged value is NaN or
    infinite and `safe`; InputError when a file of the input ends too early.
    """
    stop, tell, worker = threading.Event(), threading.Lock(), threading.local()
    by_name = {shard.name: shard for shard in shards}
    changed: set[str] = set()

    def told(count: float) -> None:
        with tell:
            advance(count)

    def buffer() -> memoryview:
        if not hasattr(worker, "buffer"):
            worker.buffer = memoryview(bytearray(BLOCK))
        return worker.buffer  # type: ignore[no-any-return]

    def sealed(name: str, digest: str) -> None:
        keys = tuple(t.key for t, _ in by_name[name].tensors if t.key in changed)
        finished(Finished(name, by_name[name].size, digest, keys))

    with (
        _opened(shards, folder) as files,
        Sealing(files.outputs, {shard.name: shard.size for shard in shards}, sealed) as sealing,
        ThreadPoolExecutor(threads or default_threads()) as pool,
    ):

        def wrote(name: str, at: int, length: int) -> None:
            sealing.wrote(name, at, length, buffer())

        def do(item: Copied | ChangedRows) -> None:
            if stop.is_set():
                return
            if isinstance(item, Copied):
                _copy(item, files, buffer(), told)
            elif change_rows(item, files, buffer(), told, safe=safe):
                changed.add(item.tensor.key)
            wrote(item.target, item.at, item.bytes)

        try:
            for shard in shards:
                files.write(shard.name, memoryview(shard.header), 0)
                wrote(shard.name, 0, len(shard.header))
            futures = [pool.submit(do, item) for item in ranges(shards)]
            if make is not None:
                _write_made(shards, make, files, told, wrote, changed)
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            sealing.wait()
        finally:
            stop.set()


def default_threads() -> int:
    """As many threads as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _opened(shards: Sequence[Shard], folder: Path) -> Iterator[Files]:
    """The inputs, and the outputs in their full length."""
    with ExitStack() as stack:

        def opened(path: Path, mode: str) -> int:
            return stack.enter_context(open(path, mode, buffering=0)).fileno()

        paths = {t.base.file for shard in shards for t, _ in shard.tensors if t.base is not None}
        inputs = {path: opened(path, "rb") for path in paths}
        outputs = {shard.name: opened(folder / shard.name, "x+b") for shard in shards}
        files = Files(inputs, outputs, {name: threading.Lock() for name in outputs})
        for shard in shards:
            os.truncate(outputs[shard.name], shard.size)
        yield files


def _write_made(
    shards: Sequence[Shard],
    make: Make,
    files: Files,
    advance: Advance,
    wrote: Wrote,
    changed: set[str],
) -> None:
    places = {t.key: (s.name, at, t) for s in shards for t, at in s.tensors if t.base is None}
    if not places:
        return
    for key, data, other in make([tensor for _, _, tensor in places.values()]):
        name, at, tensor = places.pop(key)
        assert len(data) == tensor.bytes, key
        if other:
            changed.add(key)
        files.write(name, data, at)
        wrote(name, at, len(data))
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
