"""Write the files of outputs: threads over ranges of bytes, each read, changed and written in small blocks.

Blocks are small enough to stay in a core's cache while they are changed. Memory is one block and one pair of
factors a thread, what is written at a time, and the scales of one weight where those are quantized too,
whatever the size of the model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from pipeline.accounting.buffers import BLOCK, FACTORS_AT_ONCE, ahead, chunk_size, range_size
from pipeline.accounting.layout import Shard
from pipeline.accounting.processor import cores
from pipeline.checkpoint.journal import Finished
from pipeline.realise.stream.files import Files
from pipeline.realise.stream.output import Make, Output
from pipeline.realise.stream.ranges import ChangedRows, Copied, Range, ranges
from pipeline.realise.stream.rows import Advance, change_rows
from pipeline.realise.stream.sealing import Sealing
from pipeline.realise.stream.shared import Shared
from pipeline.realise.stream.writing import PAGE, Chunks, Written, set_aside


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
    the system has some, and is not put on disk. Raises what goes wrong with files that are complete.
    """
    count = threads or cores()
    at_once = range_size(len(outputs), count)
    with (
        _opened(outputs, count, scratch=scratch) as (files, sealing),
        ThreadPoolExecutor(count) as pool,
    ):
        work = _Pass(outputs, files, advance)
        try:
            for path, (_, shard) in _shards(outputs).items():
                files.outputs[path].write(memoryview(shard.header), 0)
            futures = [pool.submit(work.do, item) for item in ranges(outputs, at_once)]
            for output in outputs:
                work.make(output)
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            sealing.wait()
        finally:
            work.stopped = True


def _shards(outputs: Sequence[Output]) -> dict[Path, tuple[Output, Shard]]:
    """The files to be written."""
    return {one.folder / shard.name: (one, shard) for one in outputs for shard in one.shards}


class _Pass:
    """What the threads of one pass share."""

    def __init__(self, outputs: Sequence[Output], files: Files, advance: Advance) -> None:
        self.stopped = False
        self._of = {path: output for path, (output, _) in _shards(outputs).items()}
        self._files, self._advance = files, advance
        self._telling, self._own = threading.Lock(), threading.local()

    def do(self, item: Range) -> None:
        """Copy or change one range, for the outputs that still go on."""
        if self.stopped:
            return
        with self._files.chunks.at_work():
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
                with self._files.chunks.at_work():
                    self._files.outputs[path].write(data, at)
                self._told(len(data))
            assert not places, f"nothing made {next(iter(places))}"
        except Exception as error:
            self._give_up(output, error)

    def _copy(self, item: Copied) -> None:
        output = self._of[item.target]
        if output.error is not None:
            return
        try:
            _copy(item, self._files, self._told)
        except Exception as error:
            self._give_up(output, error)

    def _change(self, items: Sequence[ChangedRows]) -> None:
        if not items:
            return
        wrong: Sequence[Exception | None]
        try:
            wrong = change_rows(items, self._files, self._buffer, self._changed, self._told)
        except Exception as error:
            wrong = [error] * len(items)
        for item, what in zip(items, wrong, strict=True):
            if what is not None:
                self._give_up(self._of[item.target], what)

    def _give_up(self, output: Output, error: Exception) -> None:
        output.error = error
        for shard in output.shards:
            self._files.outputs[output.folder / shard.name].give_up()

    def _changed(self, item: ChangedRows) -> None:
        self._of[item.target].changed.add(item.tensor.key)

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
    outputs: Sequence[Output], threads: int, *, scratch: bool
) -> Iterator[tuple[Files, Sealing]]:
    """The inputs, and the outputs in their full length."""
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

        shards = _shards(outputs)
        tensors = (tensor for _, shard in shards.values() for tensor, _ in shard.tensors)
        bases = {tensor.base.file for tensor in tensors if tensor.base is not None}
        inputs = {path: opened(path, "rb") for path in bases}
        descriptors = {path: opened(path, "x+b") for path in shards}
        for path, (_, shard) in shards.items():
            (os.truncate if scratch else set_aside)(descriptors[path], shard.size)
        direct = {path: None if scratch else past_the_cache(path) for path in shards}
        size = chunk_size(len(outputs))
        chunks = Chunks(size, threads * len(outputs) + ahead(len(outputs)) // size)
        sealing = stack.enter_context(Sealing())

        def written(path: Path, output: Output, shard: Shard) -> Written:
            def complete(file: Written, digest: str) -> None:
                seal = file.let_go if scratch else file.sync
                sealing.begin(lambda: _seal(output, shard, seal, digest))

            return Written(descriptors[path], direct[path], shard.size, chunks, complete)

        outs = {path: written(path, *of) for path, of in shards.items()}
        yield Files(inputs, outs, chunks, Shared(FACTORS_AT_ONCE)), sealing


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


def _seal(output: Output, shard: Shard, seal: Callable[[], None], digest: str) -> None:
    seal()
    keys = tuple(tensor.key for tensor, _ in shard.tensors if tensor.key in output.changed)
    output.finished(Finished(shard.name, shard.size, digest, keys))
