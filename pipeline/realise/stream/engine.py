"""Write the files of outputs: threads over ranges of bytes, each read, changed and written in small blocks.

Blocks are small enough to stay in a core's cache while they are changed. Memory is what `accounting.buffers`
says: blocks, what is written at a time and what waits for its hash, factors and scales that threads have in
common. It does not grow with the model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from pipeline.accounting.buffers import (
    BLOCK,
    FACTORS_AT_ONCE,
    ahead,
    chunk_size,
    most_threads,
    range_size,
)
from pipeline.accounting.layout import Shard
from pipeline.accounting.processor import cores
from pipeline.checkpoint.journal import Finished
from pipeline.realise.stream.files import OTHERS, Files, may_be_open
from pipeline.realise.stream.output import Make, Output
from pipeline.realise.stream.ranges import ChangedRows, Copied, Range, ranges
from pipeline.realise.stream.rows import Advance, change_rows
from pipeline.realise.stream.sealing import Sealing
from pipeline.realise.stream.shared import Shared
from pipeline.realise.stream.writing import PAGE, Chunks, OutputFile


def write_shards(
    shards: Sequence[Shard],
    folder: Path,
    *,
    safe: bool,
    advance: Advance,
    finished: Callable[[Finished], None],
    make: Make | None = None,
    threads: int | None = None,
    scratch: bool = False,
) -> None:
    """Write files of one output into an existing folder; `Output` has the arguments.

    Raises MergeError, naming the tensor, when a merged value is NaN or infinite and `safe`, or one of an
    adapter; InputError when a file of the input ends too early.
    """
    output = Output(folder, shards, safe, finished, make)
    write_outputs([output], advance=advance, threads=threads, scratch=scratch)
    if output.error is not None:
        raise output.error


def write_outputs(
    outputs: Sequence[Output],
    *,
    advance: Advance,
    threads: int | None = None,
    scratch: bool = False,
) -> None:
    """Write the files of all outputs in one pass over their bases.

    An output that goes wrong is given up, its `error` says why, and the others go on. `advance` is told of
    bytes written, from any thread. What is `scratch`, soon to be read and thrown away, stays in memory where
    the system has some, and is not put on disk.
    """
    count = min(threads or cores(), most_threads(len(outputs)))
    work = _Pass(outputs, advance, scratch=scratch)
    with (
        _opened(outputs, count, work.complete, scratch=scratch) as work.files,
        Sealing() as work.sealing,
        ThreadPoolExecutor(count) as pool,
    ):
        try:
            for output in outputs:
                work.begin(output)
            at_once = range_size(len(outputs), count)
            futures = [pool.submit(work.do, item) for item in ranges(outputs, at_once)]
            for output in outputs:
                work.make(output)
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            work.sealing.wait()
        finally:
            work.stopped = True


def _shards(outputs: Sequence[Output]) -> dict[Path, tuple[Output, Shard]]:
    """The files to be written."""
    return {one.folder / shard.name: (one, shard) for one in outputs for shard in one.shards}


class _Pass:
    """What the threads of one pass share."""

    files: Files
    sealing: Sealing

    def __init__(self, outputs: Sequence[Output], advance: Advance, *, scratch: bool) -> None:
        self.stopped = False
        self._of = _shards(outputs)
        self._advance, self._scratch = advance, scratch
        self._telling, self._own = threading.Lock(), threading.local()

    def begin(self, output: Output) -> None:
        """Write what stands before the tensors."""
        try:
            for shard in output.shards:
                self.files.outputs[output.folder / shard.name].write(memoryview(shard.header), 0)
        except Exception as error:
            self._give_up(output, error)

    def do(self, item: Range) -> None:
        """Copy or change one range, for the outputs that still go on."""
        if self.stopped:
            return
        with self.files.chunks.at_work():
            if isinstance(item, Copied):
                self._copy(item)
            else:
                self._change([one for one in item if self._of[one.target][0].error is None])

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
                with self.files.chunks.at_work():
                    self.files.outputs[path].write(data, at)
                self._told(len(data))
            assert not places, f"nothing made {next(iter(places))}"
        except Exception as error:
            self._give_up(output, error)

    def _copy(self, item: Copied) -> None:
        output, _ = self._of[item.target]
        if output.error is not None:
            return
        try:
            _copy(item, self.files, self._told)
        except Exception as error:
            self._give_up(output, error)

    def _change(self, items: Sequence[ChangedRows]) -> None:
        if not items:
            return
        wrong: Sequence[Exception | None]
        try:
            wrong = change_rows(items, self.files, self._buffer, self._changed, self._told)
        except Exception as error:
            wrong = [error] * len(items)
        for item, what in zip(items, wrong, strict=True):
            if what is not None:
                self._give_up(self._of[item.target][0], what)

    def _give_up(self, output: Output, error: Exception) -> None:
        output.error = error
        for shard in output.shards:
            self.files.outputs[output.folder / shard.name].give_up()

    def complete(self, path: Path, digest: str) -> None:
        """Have a file put on disk whose last bytes are written."""
        self.sealing.begin(lambda: self._seal(path, digest))

    def _seal(self, path: Path, digest: str) -> None:
        output, shard = self._of[path]
        file = self.files.outputs[path]
        try:
            (file.let_go if self._scratch else file.sync)()
            keys = tuple(tensor.key for tensor, _ in shard.tensors if tensor.key in output.changed)
            output.finished(Finished(shard.name, shard.size, digest, keys))
        except Exception as error:
            self._give_up(output, error)

    def _changed(self, item: ChangedRows) -> None:
        self._of[item.target][0].changed.add(item.tensor.key)

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
def _opened(
    outputs: Sequence[Output],
    threads: int,
    complete: Callable[[Path, str], None],
    *,
    scratch: bool,
) -> Iterator[Files]:
    """The inputs, and the outputs in their full length."""
    shards = _shards(outputs)
    tensors = (tensor for _, shard in shards.values() for tensor, _ in shard.tensors)
    bases = {tensor.base.file for tensor in tensors if tensor.base is not None}
    wanted = len(bases) + 2 * len(shards) + OTHERS
    room_for_both = may_be_open(wanted) >= wanted
    count = len(outputs)
    chunks = Chunks(chunk_size(count), threads * count + ahead(count) // chunk_size(count))
    with ExitStack() as stack:

        def opened(path: Path, mode: str) -> int:
            return stack.enter_context(open(path, mode, buffering=0)).fileno()

        def past_the_cache(path: Path) -> int | None:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            except (AttributeError, OSError):  # another system, or a file system without
                return None
            stack.callback(os.close, descriptor)
            return descriptor

        def output_file(path: Path, output: Output, shard: Shard) -> OutputFile:
            descriptor = opened(path, "x+b")
            os.truncate(descriptor, shard.size)
            # What is made comes in an order of its own, and what is ahead of it is read again.
            through_it = scratch or output.make is not None or not room_for_both
            direct = None if through_it else past_the_cache(path)
            return OutputFile(descriptor, direct, shard.size, chunks, partial(complete, path))

        inputs = {path: opened(path, "rb") for path in bases}
        files = {path: output_file(path, *of) for path, of in shards.items()}
        yield Files(inputs, files, chunks, Shared(FACTORS_AT_ONCE))


def _copy(item: Copied, files: Files, advance: Advance) -> None:
    """Through memory, but for whole pages that the file system lets both files share."""
    source, target = files.inputs[item.source], files.outputs[item.target]
    edge = min(-item.at % PAGE, item.length)
    pages = (item.length - edge) // PAGE * PAGE
    todo = [(0, item.length)]
    in_step = (item.start - item.at) % PAGE == 0
    if in_step and pages and target.clone(source, item.start + edge, item.at + edge, pages):
        advance(pages)
        todo = [(0, edge), (edge + pages, item.length)]
    for done, end in todo:
        with closing(target.stretch(item.at + done)) as out:
            while done < end:
                room = out.room()[: end - done]
                files.read(item.source, room, item.start + done)
                out.filled(len(room))
                done += len(room)
                advance(len(room))
            out.finish()
