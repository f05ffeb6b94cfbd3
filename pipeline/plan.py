"""What a recipe will do, found out before any weight is read; recipes that cannot work end here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline import estimate, tracking
from pipeline.accounting.choice import Choice, choose
from pipeline.blueprint import Blueprint, Folder, SavedDtype, State
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.pending import is_pending, pending_folder
from pipeline.checkpoint.source import Source
from pipeline.errors import InputError, MergelineError, Problem, RecipeError, Refused
from pipeline.narrate import tell_step
from pipeline.recipe.model import Recipe, StepCall
from pipeline.report.units import size


@dataclass(frozen=True)
class PlannedStep:
    """One step, in a line for a person."""

    id: str
    step: str
    does: str


@dataclass(frozen=True)
class PlannedOutput:
    """A folder that a step will write."""

    step_id: str
    path: Path
    kind: Literal["model", "adapter"]
    bytes: int | None
    """Estimated size of the weights; None when nothing tells."""
    choice: Choice | None = None
    """The realiser of a model and why; None for an adapter, which is copied."""


@dataclass(frozen=True)
class Plan:
    """A recipe that can run, and what it takes."""

    recipe: Recipe
    states: tuple[State, ...]
    """After each step of the recipe."""
    steps: tuple[PlannedStep, ...]
    sources: tuple[Source, ...]
    """The bases and adapters that are read."""
    outputs: tuple[PlannedOutput, ...]
    peak_memory_bytes: int | None
    """Estimated, for the model in memory and the libraries; None when no step needs a model."""
    free_disk_bytes: int
    """Where the run's folder will be."""
    warnings: tuple[str, ...] = ()

    @property
    def engine(self) -> str:
        """The realisers that write models: `stream`, `live`, or both; `none` when nothing is saved."""
        engines = {output.choice.engine for output in self.outputs if output.choice}
        return " and ".join(sorted(engines, reverse=True)) or "none"

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for `--json`."""
        return {
            "recipe": self.recipe.name,
            "recipe_file": str(self.recipe.path),
            "run_dir": str(self.recipe.run_dir),
            "fingerprint": self.recipe.fingerprint,
            "engine": self.engine,
            "steps": [{"id": s.id, "step": s.step, "does": s.does} for s in self.steps],
            "inputs": [
                {
                    "reference": source.reference,
                    "repo": source.repo,
                    "commit": source.commit,
                    "bytes": sum(source.files.values()),
                    "files": dict(source.files),
                }
                for source in self.sources
            ],
            "outputs": [
                {
                    "step": o.step_id,
                    "path": str(o.path),
                    "kind": o.kind,
                    "bytes": o.bytes,
                    "engine": o.choice and o.choice.engine,
                    "engine_reason": o.choice and o.choice.reason,
                }
                for o in self.outputs
            ],
            "peak_memory_bytes": self.peak_memory_bytes,
            "free_disk_bytes": self.free_disk_bytes,
            "warnings": list(self.warnings),
        }


def make_plan(recipe: Recipe) -> Plan:
    """Describe every step of a recipe in order, from configs and headers alone.

    Raises RecipeError with all that the steps refuse, each at its place.
    """
    problems = list(_about_the_run(recipe))
    states, steps, refused = _describe_all(recipe)
    problems += refused
    if problems:
        raise RecipeError(problems)
    outputs = tuple(_outputs(recipe, states))
    problems += _not_to_be_streamed(recipe, outputs)
    problems += _without_room(recipe, outputs)
    if problems:
        raise RecipeError(problems)
    return Plan(
        recipe=recipe,
        states=tuple(states),
        steps=tuple(steps),
        sources=tuple(_sources(states)),
        outputs=outputs,
        peak_memory_bytes=_peak_memory(states),
        free_disk_bytes=_free_bytes(recipe.run_dir),
        warnings=states[-1].warnings if states else (),
    )


def sources_of(recipe: Recipe) -> tuple[Source, ...]:
    """The bases and adapters that a recipe reads, also where it could not run now, as when its outputs exist.

    Raises InputError when one cannot be read.
    """
    states, _, _ = _describe_all(recipe)
    return tuple(_sources(states))


def _describe_all(recipe: Recipe) -> tuple[list[State], list[PlannedStep], list[Problem]]:
    """The state after each step, the steps in words, and what they refuse."""
    problems: list[Problem] = []
    state = State(run_dir=recipe.run_dir)
    states: list[State] = []
    steps: list[PlannedStep] = []
    for call in recipe.steps:
        before = replace(state, step_id=call.id)
        try:
            state = _describe(call, before)
        except Refused as refused:
            problems.append(_problem(refused, call, recipe))
            state = refused.otherwise or before
        except MergelineError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            problems.append(_problem(Refused(what, fix=error.fix), call, recipe))
            state = before
        states.append(state)
        steps.append(PlannedStep(call.id, call.step.name, tell_step(call, before, state)))
    return states, steps, problems


def _describe(call: StepCall, before: State) -> State:
    if "base" in call.step.needs and before.blueprint is None:
        return before  # the step that should have made it was refused, and has been told of
    made: State = call.step.describe(call.settings, before)
    return made


def _about_the_run(recipe: Recipe) -> Iterator[Problem]:
    missing = tracking.check(recipe.tracking) if recipe.tracking else None
    if missing:
        yield Problem(missing, key="tracking", place=recipe.place("tracking"))


def _problem(refused: Refused, call: StepCall, recipe: Recipe) -> Problem:
    key = f"{call.id}.{refused.key}" if refused.key else call.id
    place = recipe.place(key) if {key, call.id} & recipe.places.keys() else call.place
    return Problem(refused.what, fix=refused.fix, key=key, place=place)


def _sources(states: list[State]) -> Iterator[Source]:
    seen: set[tuple[str, str | None]] = set()
    for state in states:
        if state.blueprint is None:
            continue
        base, adapters = state.blueprint.base, state.blueprint.all_adapters
        if (base.model, base.revision) not in seen:
            seen.add((base.model, base.revision))
            if pending_folder(base.model, "model", state) is None:
                yield inspect_base(base).source
        for adapter in adapters:
            if (adapter.path, adapter.revision) not in seen and not is_pending(adapter, state):
                seen.add((adapter.path, adapter.revision))
                yield inspect_adapter(adapter).source


def _outputs(recipe: Recipe, states: list[State]) -> Iterator[PlannedOutput]:
    known: tuple[Folder, ...] = ()
    for call, state in zip(recipe.steps, states, strict=True):
        for folder in state.folders[len(known) :]:
            choice = None
            if folder.kind == "model":
                choice = choose(folder.blueprint, _dtype_of(call), recipe.engine)
            weights = _bytes_of(folder, call, state)
            yield PlannedOutput(call.id, folder.path, folder.kind, weights, choice)
        known = state.folders


def _bytes_of(folder: Folder, call: StepCall, state: State) -> int | None:
    if folder.kind == "model":
        dtype = _dtype_of(call)
        try:
            return estimate.saved_bytes(folder.blueprint, None if dtype == "keep" else dtype)
        except InputError:
            return None  # of a base that an earlier step writes
    known = [a for a in folder.blueprint.all_adapters if not is_pending(a, state)]
    return inspect_adapter(known[-1]).bytes if known else None


def _dtype_of(call: StepCall) -> SavedDtype:
    """The dtype in which a step saves a model."""
    dtype: SavedDtype = getattr(call.settings, "dtype", "keep")
    return dtype


def _not_to_be_streamed(recipe: Recipe, outputs: tuple[PlannedOutput, ...]) -> Iterator[Problem]:
    """Models that the recipe wants streamed and that only the live realiser can make."""
    if recipe.engine != "stream":
        return
    for output in outputs:
        if output.choice is not None and output.choice.engine == "live":
            yield Problem(
                f"{output.step_id} cannot be streamed: {output.choice.reason}",
                fix="use `engine: auto`, which builds the model in memory where it must",
                key="engine",
                place=recipe.place("engine"),
            )


def _without_room(recipe: Recipe, outputs: tuple[PlannedOutput, ...]) -> Iterator[Problem]:
    """Outputs for which the disk has no room, counting those before them on the same disk."""
    needed: dict[int, int] = {}
    for output in outputs:
        parent = _existing(output.path)
        disk = parent.stat().st_dev
        needed[disk] = needed.get(disk, 0) + (output.bytes or 0)
        free = shutil.disk_usage(parent).free
        if needed[disk] > free:
            key = f"{output.step_id}.path"
            yield Problem(
                f"needs about {size(needed[disk])} on the disk of {parent}, and {size(free)} are free",
                fix="free some space, or write to another disk",
                key=key,
                place=recipe.place(key),
            )


def _peak_memory(states: list[State]) -> int | None:
    blueprints = [state.blueprint for state in states if state.blueprint is not None]
    sizes = [_live_bytes(blueprint) for blueprint in blueprints]
    return max(sizes) + estimate.LIBRARIES if sizes else None


def _live_bytes(blueprint: Blueprint) -> int:
    try:
        return estimate.live_bytes(blueprint)
    except InputError:
        return 0


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
