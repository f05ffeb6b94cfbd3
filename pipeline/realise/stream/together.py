"""The weights of several models, written in one pass over their base before the steps that save them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.accounting.choice import choose
from pipeline.accounting.layout import parse_size
from pipeline.blueprint import SavedDtype, State
from pipeline.errors import MergelineError
from pipeline.realise.stream import Stream, begin_stream
from pipeline.realise.stream.engine import write_outputs
from pipeline.realise.stream.files import OTHERS, may_be_open

if TYPE_CHECKING:
    from pipeline.manifest import StepRecord
    from pipeline.run import RunContext


@dataclass(frozen=True)
class Save:
    """A step that is going to save a model."""

    run: RunContext
    state: State
    record: StepRecord
    path: Path
    dtype: SavedDtype
    max_shard_size: str
    overwrite: bool


def write_together(run: RunContext, saves: Iterable[Save]) -> None:
    """Write the weights of all that can be begun; each step then finds its own, or why it failed.

    What cannot be begun is left to its step, which says why. Where the system allows too few open files for
    all of them, several passes are made. `run` tells the user of them.
    """
    streams: list[Stream] = []
    for save in saves:
        with suppress(MergelineError), save.run.standing_at(save.state, save.record):
            stream = _begin(save)
            streams.append(stream)
            save.run.ahead[stream.output.folder] = stream
    passes = list(_passes(streams))
    for number, part in enumerate(passes, start=1):
        turn = f" (pass {number} of {len(passes)})" if len(passes) > 1 else ""
        if len(streams) > 1:
            text = f"the weights of {len(part)} models are written in one pass over the base{turn}"
            run.note(text)
        _write(run, part)


def _begin(save: Save) -> Stream:
    run = save.run
    choice = choose(run.blueprint, save.dtype, run.recipe.engine, fetch=True)
    assert choice.work is not None, "the plan has chosen the same way"
    folder = run.holding.begin(save.path, overwrite=save.overwrite)
    size = parse_size(save.max_shard_size)
    return begin_stream(run, choice.work, folder, max_shard_bytes=size)


def _passes(streams: Sequence[Stream]) -> Iterator[list[Stream]]:
    """As many together as may be open."""
    wanted = sum(map(_descriptors, streams))
    inputs = max((len(stream.inputs) for stream in streams), default=0)
    room = most = may_be_open(wanted + inputs + OTHERS) - inputs - OTHERS
    part: list[Stream] = []
    for stream in streams:
        takes = _descriptors(stream)
        if part and takes > room:
            yield part
            part, room = [], most
        part.append(stream)
        room -= takes
    if part:
        yield part


def _descriptors(stream: Stream) -> int:
    """Each file is open for writing through the cache and past it, and the lock of the folder is open."""
    return 2 * len(stream.shards) + 1


def _write(run: RunContext, streams: Sequence[Stream]) -> None:
    size = sum(stream.bytes for stream in streams)
    try:
        with run.bar(f"merging into {len(streams)} models", size, unit="B") as bar:
            write_outputs([stream.output for stream in streams], advance=bar.advance)
    except Exception as error:  # of the disk, say
        for stream in streams:
            if len(stream.journal.finished) < len(stream.shards):
                stream.output.error = stream.output.error or error
