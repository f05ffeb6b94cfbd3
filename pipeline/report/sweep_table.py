"""A sweep as tables: what it will do, how it stands, how it ended."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.report.output import standard_output
from pipeline.report.units import duration, figure, printable, size

if TYPE_CHECKING:
    from pipeline.manifest import Figure
    from pipeline.sweep.fuse import Pass
    from pipeline.sweep.ledger import JobLine
    from pipeline.sweep.prepare import PlannedJob, SweepPlan
    from pipeline.sweep.status import SweepStatus

WIDTH_OF_PIPES = 160
KEY_METRICS = ("loss", "perplexity", "error", "kl", "top1", "bytes")
"""Figures that jobs are compared by; all of them are in each job's manifest and in the ledger."""

_COLOURS = {"done": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}


def print_sweep(status: SweepStatus, console: Console | None = None) -> None:
    """The jobs of a sweep in a table, those that failed with their reasons below it."""
    (console or standard_output(WIDTH_OF_PIPES)).print(sweep_table(status))


def sweep_table(status: SweepStatus) -> RenderableType:
    """What `print_sweep` prints."""
    table = _table("overrides", "status", "time", "figures", "folder")
    for job in status.jobs:
        table.add_row(
            Text(_own(job.overrides)),
            Text(job.status, _COLOURS.get(job.status, "dim")),
            "" if job.seconds is None else duration(job.seconds),
            Text(printable(job.progress) or _key_metrics(job.metrics)),
            Text(job.folder),
        )
    parts: list[RenderableType] = [Text(f"{status.recipe}  {status.folder}"), table]
    failed = [job for job in status.jobs if job.why]
    for job in failed:
        parts.append(Text.assemble((_own(job.overrides, " "), "bold"), f": {printable(job.why)}"))
    parts += [Text("")] if failed else []
    return Group(*parts, Text(_counts(status)))


def print_sweep_plan(plan: SweepPlan, passes: Sequence[Pass] = ()) -> None:
    """Every job and why it will run, what all of them read, which go together, and what it takes."""
    console = standard_output(WIDTH_OF_PIPES)
    console.print(Text(f"{plan.recipe}  {plan.folder}"))
    table = _table("job", "settings", "why", "writes", "memory")
    for job, settings in zip(plan.jobs, differences(plan.jobs), strict=True):
        said = "\n".join(f"{key}={value}" for key, value in settings.items())
        row = [Text(job.folder), Text(said or _own(job.own)), Text(job.why)]
        if job.plan is not None:
            weights = sum(output.bytes or 0 for output in job.plan.outputs)
            memory = job.plan.peak_memory_bytes
            row += [Text(size(weights)), Text("-" if memory is None else size(memory))]
        table.add_row(*row)
    console.print(table)
    console.print(_totals(plan, passes))


def differences(jobs: Sequence[PlannedJob]) -> list[dict[str, Any]]:
    """For each job, the resolved settings that are not the same in all of them."""
    flat = [dict(_flat(job.recipe.resolved, "", str(job.recipe.run_dir))) for job in jobs]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)]
    shown = [key for key in differing if not key.startswith("params.")] or differing
    return [{k.removeprefix("steps."): one[k] for k in shown if k in one} for one in flat]


def print_best(overrides: Sequence[str], metric: str, value: float, trials: int) -> None:
    """The best trial of a search."""
    said = (
        f"{_own(overrides, ' ')}: {metric} {figure(value)}" if overrides else f"none has {metric}"
    )
    standard_output(WIDTH_OF_PIPES).print(Text(f"best of {trials} trials: {said}"))


def tell_job(job: PlannedJob, line: JobLine, at: str = "") -> None:
    """One line on standard error: a job begins or has ended; `at` is its place among the others."""
    name = _own(list(job.own), " ") or job.folder
    said = {"running": "started", "done": "done", "interrupted": "interrupted"}
    text = f"{at}{name}: {said.get(line.status, line.status)}"
    if line.status != "running" and line.seconds is not None:
        text += f" {'in' if line.status == 'done' else 'after'} {duration(line.seconds)}"
    text += f": {line.why}" if line.status == "failed" else ""
    with suppress(OSError):  # a sweep goes on when nobody listens any more
        print(printable(text), file=sys.stderr, flush=True)


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _own(overrides: Sequence[str], between: str = "\n") -> str:
    return printable(between.join(overrides))


def _key_metrics(metrics: Mapping[str, Figure]) -> str:
    kept = [(k, v) for k, v in metrics.items() if k.rpartition(".")[2] in KEY_METRICS]
    return printable("\n".join(f"{key} {figure(value)}" for key, value in kept))


def _counts(status: SweepStatus) -> str:
    jobs = f"{len(status.jobs)} job{'s' * (len(status.jobs) != 1)}"
    if status.count("done") == len(status.jobs):
        return f"{jobs}, all done"
    states = ("done", "failed", "interrupted", "running", "waiting")
    counts = [f"{status.count(s)} {s}" for s in states if status.count(s)]  # type: ignore[arg-type]
    return f"{jobs}: {', '.join(counts)}"


def _totals(plan: SweepPlan, passes: Sequence[Pass]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    shared = [
        source
        for source in (plan.jobs[0].sources if len(plan.jobs) > 1 else ())
        if all(source.reference in {s.reference for s in job.sources} for job in plan.jobs)
    ]
    for source in shared:
        table.add_row("all read", Text(f"{source.reference}: {size(sum(source.files.values()))}"))
    plans = [job.plan for job in plan.to_do if job.plan is not None]
    table.add_row("to do", f"{len(plans)} of {len(plan.jobs)} jobs")
    for one in passes:
        all_of_them = len(one.saves) == len(plans)
        jobs = "all of them" if all_of_them else ", ".join(one.saves)
        table.add_row("one pass", Text(f"over {one.base} writes the weights of {jobs}"))
    if plans:
        free = min(one.free_disk_bytes for one in plans)
        table.add_row("writes", f"about {size(plan.bytes)}; {size(free)} free")
        most = max((one.peak_memory_bytes or 0 for one in plans), default=0)
        if most:
            table.add_row("memory", f"about {size(most)} at most, for each job that runs at a time")
    return table


def _flat(value: Any, key: str, run_dir: str) -> list[tuple[str, Any]]:
    """Dotted keys and values, without what only names the job's own folder."""
    if isinstance(value, Mapping) and value:
        return [
            pair
            for name, one in value.items()
            if key or name != "run"
            for pair in _flat(one, f"{key}.{name}" if key else str(name), run_dir)
        ]
    return [] if isinstance(value, str) and run_dir in value else [(key, value)]
