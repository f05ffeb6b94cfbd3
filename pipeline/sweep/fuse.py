"""Jobs that share a base: their weights are written ahead, in one pass over it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.ahead import saves_ahead, write_ahead
from pipeline.sweep.orders import Orders
from pipeline.sweep.prepare import PlannedJob
from pipeline.sweep.process import in_child


@dataclass(frozen=True)
class Pass:
    """Models of several jobs that are written in one pass."""

    base: str
    saves: Mapping[str, tuple[str, ...]]
    """Ids of the steps that write them, by the folder of the job."""


def passes_of(jobs: Sequence[PlannedJob]) -> tuple[Pass, ...]:
    """The jobs to do that go together. Of several that write the same model, one."""
    models: defaultdict[tuple[str, str], dict[object, tuple[str, str]]] = defaultdict(dict)
    for job in jobs:
        for call, state in saves_ahead(job.plan) if job.plan else ():
            assert state.blueprint is not None
            base, how = state.blueprint.base, call.settings
            model = (state.blueprint.fingerprint({}, {}), how.dtype, how.max_shard_size)
            models[base.model, base.revision or ""].setdefault(model, (job.folder, call.id))
    return tuple(
        _pass(base, list(saves.values()))
        for (base, _), saves in models.items()
        if len({job for job, _ in saves.values()}) > 1
    )


def write_pass(one: Pass, jobs: Sequence[PlannedJob], folder: Path, orders: Orders) -> str | None:
    """Write the weights of a pass in a process of its own; why it came to no end, or None.

    No job fails by that: each writes what it does not find.
    """
    steps = {job.request: one.saves[job.folder] for job in jobs if job.folder in one.saves}
    end = in_child(partial(write_ahead, steps), folder, orders, Path.cwd())
    return end.why if end.code or end.told else None


def _pass(base: str, saves: Sequence[tuple[str, str]]) -> Pass:
    ids: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for job, id in saves:
        ids[job] += (id,)
    return Pass(base, dict(ids))
