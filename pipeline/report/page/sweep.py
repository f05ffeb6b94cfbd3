"""All that the page of a sweep shows, made from its ledger and from the manifests of its jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.manifest import Manifest
from pipeline.report.page.jobs_table import Column, JobsTable, jobs_table
from pipeline.report.page.verdict import Tone, Verdict, verdict
from pipeline.report.page.words import QUALITIES, Said
from pipeline.report.units import duration, printable, size

if TYPE_CHECKING:
    from pipeline.sweep.status import JobRow, SweepStatus


@dataclass(frozen=True)
class JobLink:
    """A job by what sets it apart, and where its own page lies."""

    name: str
    address: str = ""


@dataclass(frozen=True)
class Failures:
    """Jobs that are not done for the same reason."""

    why: str
    fix: str
    jobs: tuple[JobLink, ...]


@dataclass(frozen=True)
class Scatter:
    """Two axes, by their names, that the reader may change."""

    title: str
    explains: str
    x: str
    y: str


@dataclass(frozen=True)
class SweepPage:
    """The page of a sweep, from top to bottom."""

    status: SweepStatus
    verdict: Verdict
    tiles: tuple[Said, ...]
    failures: tuple[Failures, ...]
    scatters: tuple[Scatter, ...]
    parallel: bool
    """Whether lines through all settings and figures tell something."""
    table: JobsTable


def sweep_page(
    status: SweepStatus, records: Mapping[str, Manifest], addresses: Mapping[str, str]
) -> SweepPage:
    """The page of a sweep; `records` are its jobs' manifests, and `addresses` their pages, by folder."""
    table = jobs_table(status.jobs, addresses)
    varied = [column for column in table.columns if column.varies]
    return SweepPage(
        status=status,
        verdict=_verdict(status, records),
        tiles=_tiles(status, records),
        failures=_failures(status.jobs, records, addresses),
        scatters=tuple(_scatters(varied)),
        parallel=len([column for column in varied if column.shown]) > 2,
        table=table,
    )


def _verdict(status: SweepStatus, records: Mapping[str, Manifest]) -> Verdict:
    """How the sweep ended or stands, and how many of its models are proven."""
    done, failed, of = status.count("done"), status.count("failed"), len(status.jobs)
    so_far = f"{done} of {_jobs(of)} done"
    running = status.status == "running"
    tone: Tone = "bad" if failed else "good" if done == of else "warn"
    details = []
    if failed:
        said = f"{failed} of {_jobs(of)} failed"
        if running or done + failed < of:
            details.append(f"{'It is still running' if running else 'It ended early'}: {so_far}.")
        else:
            details.append(f"{done} {'is' if done == 1 else 'are'} done.")
    elif done < of:
        said = f"{'Not finished' if running else 'Interrupted'}: {so_far}"
    else:
        said = "The job is done" if of == 1 else f"All {_jobs(of)} are done"
    tones = [
        verdict(records[job.folder]).tone
        for job in status.jobs
        if job.status == "done" and job.folder in records
    ]
    proven, unproven = tones.count("good"), tones.count("warn")
    if proven and not unproven:
        whose = "Every model of those" if failed or done < of else "Every model that was saved"
        details.append(f"{whose} is proven to be what was trained.")
    elif unproven:
        details.append(
            f"Models that are proven to be what was trained: {proven} of {proven + unproven}."
        )
    return Verdict(tone, said, tuple(details))


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def _tiles(status: SweepStatus, records: Mapping[str, Manifest]) -> tuple[Said, ...]:
    states = ("done", "failed", "interrupted", "running", "waiting")
    counts = [Said(state, str(status.count(state))) for state in states if status.count(state)]  # type: ignore[arg-type]
    seconds = sum(job.seconds or 0 for job in status.jobs)
    written = sum(file.bytes for record in records.values() for file in record.outputs)
    peaks = (step.peak_memory_bytes or 0 for one in records.values() for step in one.steps)
    peak = max(peaks, default=0)
    return (
        *counts,
        Said("time of all jobs", duration(seconds)),
        *([Said("peak memory of a job", size(peak))] if peak else []),
        *([Said("written", size(written))] if written else []),
    )


def _failures(
    jobs: Iterable[JobRow], records: Mapping[str, Manifest], addresses: Mapping[str, str]
) -> tuple[Failures, ...]:
    """What went wrong, what happened most often first."""
    found: dict[tuple[str, str], list[JobLink]] = {}
    for job in jobs:
        if job.why:
            error = records[job.folder].error if job.folder in records else None
            fix = error.fix if error and error.fix and error.what in job.why else ""
            why = job.why.replace(job.folder, "\N{HORIZONTAL ELLIPSIS}")
            link = JobLink(
                printable(" ".join(job.overrides)) or job.folder, addresses.get(job.folder, "")
            )
            found.setdefault((why, fix), []).append(link)
    groups = [Failures(why, fix, tuple(links)) for (why, fix), links in found.items()]
    return tuple(sorted(groups, key=lambda group: -len(group.jobs)))


def _scatters(varied: Sequence[Column]) -> Iterable[Scatter]:
    """Quality over the first setting, and over size, where jobs differ in them."""
    settings = sorted(
        (column for column in varied if column.kind == "setting"), key=lambda one: not one.numeric
    )
    figures = [column for column in varied if column.kind == "figure"]
    best = min(
        (column for column in figures if column.last in QUALITIES),
        key=lambda column: (QUALITIES.index(column.last), "base." in column.name),
        default=None,
    )
    sizes = [column.name for column in figures if column.last == "bytes"]
    y = best.name if best else next((c.name for c in figures if c.name not in sizes), "seconds")
    if settings or best:
        x = settings[0].name if settings else "seconds"
        yield Scatter("Any against any", "A point for each job. Choose the axes.", x, y)
    if best and sizes:
        yield Scatter(
            "Size against quality",
            "The line leads along the jobs than which none is both smaller and better.",
            sizes[0],
            best.name,
        )
