"""The weights of several branches, written in one pass over their base before the steps that save them."""

from __future__ import annotations

from collections.abc import Iterable
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

if TYPE_CHECKING:
    from pipeline.manifest import StepRecord
    from pipeline.run import RunContext


@dataclass(frozen=True)
class Save:
    """A step that is going to save a model."""

    state: State
    record: StepRecord
    path: Path
    dtype: SavedDtype
    max_shard_size: str
    overwrite: bool


def write_together(run: RunContext, saves: Iterable[Save]) -> None:
    """Write the weights of all that can be begun; each step then finds its own, or why it failed.

    What cannot be begun is left to its step, which says why.
    """
    streams: list[Stream] = []
    for save in saves:
        with suppress(MergelineError), run.standing_at(save.state, save.record):
            stream = _begin(run, save)
            streams.append(stream)
            run.ahead[stream.output.folder] = stream
    size = sum(stream.bytes for stream in streams)
    run.note(f"the weights of {len(streams)} branches are written in one pass over the base")
    try:
        with run.bar(f"merging {len(streams)} branches", size, unit="B") as bar:
            write_outputs([stream.output for stream in streams], advance=bar.advance)
    except Exception as error:  # of the disk, say: no branch is complete
        for stream in streams:
            stream.output.error = stream.output.error or error


def _begin(run: RunContext, save: Save) -> Stream:
    choice = choose(run.blueprint, save.dtype, run.recipe.engine, fetch=True)
    assert choice.work is not None
    folder = run.holding.begin(save.path, overwrite=save.overwrite)
    size = parse_size(save.max_shard_size)
    return begin_stream(run, choice.work, folder, max_shard_bytes=size)
