"""All that the page of a run shows, made from its manifest and from nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

import yaml

from pipeline.manifest import Manifest, StepRecord
from pipeline.receipt.record import FILE_NAME as RECEIPT
from pipeline.report.page.evaluations import Evaluation, evaluation
from pipeline.report.page.files import Files, files_of
from pipeline.report.page.histograms import Bars, bars
from pipeline.report.page.modules import HeatMap, ModuleTable, heat_maps, module_table
from pipeline.report.page.verdict import Verdict, verdict
from pipeline.report.page.words import Said, amount, label
from pipeline.report.units import duration, size


@dataclass(frozen=True)
class StepRow:
    """A step, with its time and memory as shares of the most that any step took."""

    record: StepRecord
    time: float
    memory: float
    settings: str
    figures: tuple[Said, ...]
    notes: tuple[str, ...]
    """Like the figures, without what another part of the page shows."""


@dataclass(frozen=True)
class Proof:
    """What a `verify` step found."""

    id: str
    passed: bool
    figures: tuple[Said, ...]
    maps: tuple[HeatMap, ...]
    histograms: tuple[Bars, ...]
    modules: ModuleTable | None


@dataclass(frozen=True)
class RunPage:
    """The page of a run, from top to bottom."""

    record: Manifest
    verdict: Verdict
    tiles: tuple[Said, ...]
    warnings: tuple[Said, ...]
    proofs: tuple[Proof, ...]
    evaluation: Evaluation | None
    steps: tuple[StepRow, ...]
    inputs: tuple[Files, ...]
    outputs: tuple[Files, ...]
    asked: tuple[Said, ...]
    resolved: str
    again: str
    """The command, for the machine and the folder in which it was given."""
    checks: tuple[str, ...]
    """Commands for the run's folder, wherever that is now."""


def run_page(record: Manifest) -> RunPage:
    """The page of a run."""
    inputs, outputs = files_of(record)
    told = {
        name: [step for step in record.steps if step.step == name and _has_a_section(step)]
        for name in ("verify", "evaluate")
    }
    return RunPage(
        record=record,
        verdict=verdict(record),
        tiles=_tiles(record),
        warnings=(
            *(Said("plan", text) for text in record.warnings),
            *(Said(step.id, text) for step in record.steps for text in step.warnings),
        ),
        proofs=tuple(map(_proof, told["verify"])),
        evaluation=evaluation(told["evaluate"]),
        steps=_steps(record.steps),
        inputs=inputs,
        outputs=outputs,
        asked=_asked(record),
        resolved=_yaml(record.resolved),
        again=shlex.join(["mergeline", "run", record.recipe_file, *record.overrides]),
        checks=_checks(record),
    )


def _tiles(record: Manifest) -> tuple[Said, ...]:
    peak = max((step.peak_memory_bytes or 0 for step in record.steps), default=0)
    written = sum(file.bytes for file in record.outputs)
    found = [
        Said("time", duration(record.seconds) if record.seconds is not None else ""),
        Said("peak memory", size(peak) if peak else ""),
        Said("read", size(sum(file.bytes for file in record.inputs)) if record.inputs else ""),
        Said("written", size(written) if written else ""),
        Said("engine", record.engine if record.engine != "none" else ""),
    ]
    return tuple(tile for tile in found if tile.text)


def _proof(step: StepRecord) -> Proof:
    return Proof(
        step.id,
        step.status == "done",
        _figures(step),
        tuple(heat_maps(step.modules)),
        tuple(filter(None, (bars(name, found) for name, found in step.histograms.items()))),
        module_table(step.modules),
    )


def _steps(steps: Iterable[StepRecord]) -> tuple[StepRow, ...]:
    steps = list(steps)
    longest = max((step.seconds or 0 for step in steps), default=0)
    most = max((step.peak_memory_bytes or 0 for step in steps), default=0)
    return tuple(
        StepRow(
            step,
            (step.seconds or 0) / longest if longest else 0,
            (step.peak_memory_bytes or 0) / most if most else 0,
            _yaml(step.settings),
            *(
                ((), _in_a_line(step.notes))
                if _has_a_section(step)
                else (_figures(step), tuple(step.notes))
            ),
        )
        for step in steps
    )


def _in_a_line(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes without the tables among them."""
    return tuple(text for text in notes if "\n" not in text)


def _has_a_section(step: StepRecord) -> bool:
    return step.step in ("verify", "evaluate") and bool(step.metrics)


def _figures(step: StepRecord) -> tuple[Said, ...]:
    """The figures of a step, each with the bound that it was held against."""
    return tuple(
        Said(
            label(name),
            amount(name, value),
            amount(name, step.bounds[name]) if name in step.bounds else "",
        )
        for name, value in step.metrics.items()
        if value is not None
    )


def _asked(record: Manifest) -> tuple[Said, ...]:
    found = {
        "recipe": record.recipe_file,
        "overrides": shlex.join(record.overrides),
        "tags": " ".join(record.tags),
        "started": record.started.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        "folder": record.run_dir,
        "fingerprint": record.fingerprint,
        "recipe's BLAKE3": record.recipe_blake3,
        "git commit": record.git_commit or "",
    }
    return tuple(Said(name, text) for name, text in found.items() if text)


def _checks(record: Manifest) -> tuple[str, ...]:
    """How to look at what came of it: folders as they are found from the run's own."""
    made = [PurePath(file.path) for file in record.outputs]
    folders = dict.fromkeys(str(file.parent) for file in made if file.name == RECEIPT)
    return tuple(
        shlex.join(["mergeline", verb, folder])
        for folder in folders
        for verb in ("verify", "replay")
    )


def _yaml(settings: Mapping[str, object]) -> str:
    if not settings:
        return ""
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=100).rstrip()
