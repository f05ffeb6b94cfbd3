"""Write the files of outputs: threads over ranges of bytes, each read, changed and written in small blocks.

Bytes that are only copied are the kernel's work, and do not pass through this process. Blocks are small
enough to stay in a core's cache between the read and the write. Memory is one block and one pair of factors
a thread, and the scales of one weight where those are quantized too, whatever the size of the model.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.accounting.layout import Shard
from pipeline.accounting.processor import cores
from pipeline.checkpoint.journal import Finished
from pipeline.realise.stream.files import Files
from pipeline.realise.stream.kernels import CHANGED, NOT_FINITE
from pipeline.realise.stream.output import Make, Output
from pipeline.realise.stream.ranges import ChangedRows, Copied, Range, ranges
from pipeline.realise.stream.rows import Advance, change_rows, not_finite
from pipeline.realise.stream.sealing import Sealing

BLOCK = 1 << 20
"""Bytes that go through a buffer at a time."""


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
    """Write files of one output into an existing folder; `Output` has the arguments.

    Raises MergeError, naming the tensor, when a merged value is NaN or infinite and `safe`, or one of an
    adapter; InputError when a file of the input ends too early.
    """
    output = Output(folder, shards, safe, finished, make)
    write_outputs([output], advance=advance, threads=threads)
    if output.error is not None:
        raise output.error


def write_outputs(
    outputs: Sequence[Output], *, advance: Advance, threads: int | None = None
) -> None:
    """Write the files of all outputs in one pass over their bases.

    An output that goes wrong is given up, its `error` says why, and the others go on. `advance` is told of
    bytes written, from any thread. Raises what goes wrong with files that are complete.
    """
    of = {one.folder / shard.name: (one, shard) for one in outputs for shard in one.shards}

    def sealed(path: Path, digest: str) -> None:
        output, shard = of[path]
        keys = tuple(tensor.key for tensor, _ in shard.tensors if tensor.key in output.changed)
        output.finished(Finished(shard.name, shard.size, digest, keys))

    sizes = {path: shard.size for path, (_, shard) in of.items()}
    with (
        _opened(outputs) as files,
        Sealing(files.outputs, sizes, sealed) as sealing,
        ThreadPoolExecutor(threads or cores()) as pool,
    ):
        work = _Pass({path: one for path, (one, _) in of.items()}, files, sealing, advance)
        try:
            for path, (_, shard) in of.items():
                work.write(path, memoryview(shard.header), 0)
            futures = [pool.submit(work.do, item) for item in ranges(outputs)]
            for output in outputs:
                work.make(output)
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            sealing.wait()
        finally:
            work.stopped = True


class _Pass:
    """What the threads of one pass share."""

    def __init__(
        self, of: Mapping[Path, Output], files: Files, sealing: Sealing, advance: Advance
    ) -> None:
        self.stopped = False
        self._of, self._files, self._sealing, self._advance = of, files, sealing, advance
        self._telling, self._own = threading.Lock(), threading.local()

    def do(self, item: Range) -> None:
        """Copy or change one range, for the outputs that still go on."""
        if self.stopped:
            return
        if isinstance(item, Copied):
            self._copy(item)
        else:
            self._change([one for one in item if self._of[one.target].error is None])

    def make(self, output: Output) -> None:
        """Have the tensors made that come from no file."""
        places = {
            tensor.key: (output.folder / shard.name, at, tensor)
            for shard in output.shards
            for tensor, at in shard.tensors
            if tensor.base is None
        }
        if output.make is None or not places:
            return
        try:
            for key, data, other in output.make([tensor for _, _, tensor in places.values()]):
                path, at, tensor = places.pop(key)
                assert len(data) == tensor.bytes, key
                if other:
                    output.changed.add(key)
                self.write(path, data, at)
                self._told(len(data))
            assert not places, f"nothing made {next(iter(places))}"
        except Exception as error:
            output.error = error

    def write(self, path: Path, data: memoryview, at: int) -> None:
        """Write what is in memory."""
        self._files.write(path, data, at)
        self._wrote(path, at, len(data))

    def _copy(self, item: Copied) -> None:
        output = self._of[item.target]
        if output.error is not None:
            return
        try:
            _copy(item, self._files, self._buffer, self._told)
        except Exception as error:
            output.error = error
        else:
            self._wrote(item.target, item.at, item.bytes)

    def _change(self, items: Sequence[ChangedRows]) -> None:
        if not items:
            return
        try:
            found = change_rows(items, self._files, self._buffer, self._told)
        except Exception as error:
            found = [error] * len(items)
        for item, what in zip(items, found, strict=True):
            output = self._of[item.target]
            if isinstance(what, Exception):
                output.error = what
            elif what & NOT_FINITE and (wrong := not_finite(item.tensor, safe=output.safe)):
                output.error = wrong
            else:
                if what & CHANGED:
                    output.changed.add(item.tensor.key)
                self._wrote(item.target, item.at, item.bytes)

    def _wrote(self, path: Path, at: int, length: int) -> None:
        self._sealing.wrote(path, at, length, self._buffer)

    def _told(self, count: float) -> None:
        with self._telling:
            self._advance(count)

    @property
    def _buffer(self) -> memoryview:
        """Of the thread that asks."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = memoryview(bytearray(BLOCK))
        return self._own.buffer  # type: ignore[no-any-return]


@contextmanager
def _opened(outputs: Sequence[Output]) -> Iterator[Files]:
    """The inputs, and the outputs in their full length."""
    with ExitStack() as stack:

        def opened(path: Path, mode: str) -> int:
            return stack.enter_context(open(path, mode, buffering=0)).fileno()

        sizes = {one.folder / shard.name: shard.size for one in outputs for shard in one.shards}
        tensors = (t for one in outputs for shard in one.shards for t, _ in shard.tensors)
        paths = {tensor.base.file for tensor in tensors if tensor.base is not None}
        inputs = {path: opened(path, "rb") for path in paths}
        written = {path: opened(path, "x+b") for path in sizes}
        files = Files(inputs, written, {path: threading.Lock() for path in written})
        for path, size in sizes.items():
            os.truncate(written[path], size)
        yield files


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
