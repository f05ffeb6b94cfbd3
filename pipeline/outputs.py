"""The folders that a recipe will write: their files and tensors, who makes them, and the room they take."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline import estimate
from pipeline.accounting.choice import Choice, choose
from pipeline.accounting.layout import lay_out, parse_size
from pipeline.accounting.tally import tally
from pipeline.blueprint import Folder, SavedDtype, State
from pipeline.branches import walk
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.beside import leftovers
from pipeline.checkpoint.pending import is_pending
from pipeline.checkpoint.source import Source
from pipeline.errors import InputError, Problem
from pipeline.recipe.model import Recipe, StepCall
from pipeline.report.units import size


@dataclass(frozen=True)
class PlannedOutput:
    """A folder that a step will write."""

    step_id: str
    path: Path
    kind: Literal["model", "adapter"]
    bytes: int | None
    """Of the weights: exact where `files` are known, else estimated; None when nothing tells."""
    choice: Choice | None = None
    """The realiser of a model and why; None for an adapter, which is copied."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Files of weights with their bytes; none where only writing them tells."""
    tensors: Mapping[str, int] = field(default_factory=dict)
    """How many are copied, merged, ...; empty where the live realiser decides."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        return {
            "step": self.step_id,
            "path": str(self.path),
            "kind": self.kind,
            "bytes": self.bytes,
            "files": dict(self.files),
            "tensors": dict(self.tensors),
            "engine": self.choice and self.choice.engine,
            "engine_reason": self.choice and self.choice.reason,
        }


@dataclass(frozen=True)
class Disk:
    """A disk that the run writes to."""

    path: Path
    """A folder on it."""
    needed: int
    """Bytes of what is to be written and downloaded."""
    free: int


def planned_outputs(recipe: Recipe, states: Sequence[State]) -> Iterator[PlannedOutput]:
    """What the steps write, in their order."""
    for call, before, state in walk(recipe.steps, states):
        for folder in state.folders[len(before.folders) :]:
            if folder.kind == "model":
                yield _model(call, folder, recipe)
            else:
                there = [a for a in folder.blueprint.all_adapters if not is_pending(a, state)]
                weights = inspect_adapter(there[-1]).bytes if there else None
                yield PlannedOutput(call.id, folder.path, "adapter", weights)


def _model(call: StepCall, folder: Folder, recipe: Recipe) -> PlannedOutput:
    dtype: SavedDtype = getattr(call.settings, "dtype", "keep")
    choice = choose(folder.blueprint, dtype, recipe.engine)
    if choice.work is not None:
        shards = lay_out(choice.work.tensors, parse_size(call.settings.max_shard_size))
        files = {shard.name: shard.size for shard in shards}
        counts = tally(choice.work.tensors)
        total = sum(files.values())
        return PlannedOutput(call.id, folder.path, "model", total, choice, files, counts)
    try:
        about = estimate.saved_bytes(folder.blueprint, None if dtype == "keep" else dtype)
    except InputError:
        about = None  # of a base that an earlier step writes
    return PlannedOutput(call.id, folder.path, "model", about, choice)


def not_to_be_streamed(recipe: Recipe, outputs: Sequence[PlannedOutput]) -> Iterator[Problem]:
    """Models that the recipe wants streamed, or written by other machines, and that only the live realiser
    can make."""
    if recipe.engine != "stream" and recipe.workers is None:
        return
    for output in outputs:
        if output.choice is not None and output.choice.engine == "live":
            key = "workers" if recipe.workers else "engine"
            fix = "use `engine: auto`, which builds the model in memory where it must"
            if recipe.workers:
                fix = "leave it out: only the files of streams go to other machines"
            yield Problem(
                f"{output.step_id} cannot be streamed: {output.choice.reason}",
                fix=fix,
                key=key,
                place=recipe.place(key),
            )


def room(
    recipe: Recipe, sources: Sequence[Source], outputs: Sequence[PlannedOutput]
) -> tuple[tuple[Disk, ...], list[Problem]]:
    """The disks that are written to, first the one of the run's folder; and what they have no room for."""
    folders: dict[int, Path] = {}
    needed: defaultdict[int, int] = defaultdict(int)
    problems = []

    def take(path: Path, count: int, key: str | None) -> None:
        parent = existing(path)
        disk = parent.stat().st_dev
        folders.setdefault(disk, parent)
        needed[disk] += count
        free = free_bytes(parent)
        if count and needed[disk] > free:
            problems.append(
                Problem(
                    f"needs about {size(needed[disk])} on the disk of {parent}, and {size(free)} are free",
                    fix="free some space, or write to another disk",
                    key=key,
                    place=recipe.place(key) if key else None,
                )
            )

    take(recipe.run_dir, 0, None)
    for source in sources:
        download = source.to_download()
        if download is not None:
            take(*download, None)
    for output in outputs:
        take(
            output.path, max(0, (output.bytes or 0) - _left(output.path)), f"{output.step_id}.path"
        )
    disks = (Disk(folder, needed[disk], free_bytes(folder)) for disk, folder in folders.items())
    return tuple(disks), problems


def _left(target: Path) -> int:
    """Bytes that an earlier run left of the same output: the next one goes on with them or removes them."""
    if not target.parent.is_dir():
        return 0
    files = (file for folder in leftovers(target, "partial") for file in folder.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def free_bytes(path: Path) -> int:
    """Free bytes on the disk where a folder is, or will be."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = path.expanduser().absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
