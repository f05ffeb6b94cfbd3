"""What a recipe will do, found out before any weight is read; recipes that cannot work end here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline import estimate, tracking
from pipeline.accounting.claims import Claims, claims_of
from pipeline.blueprint import Blueprint, State
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.pending import is_pending, pending_folder
from pipeline.checkpoint.source import Source
from pipeline.errors import InputError, MergelineError, Problem, RecipeError, Refused
from pipeline.narrate import tell_step
from pipeline.outputs import Disk, PlannedOutput, not_to_be_streamed, planned_outputs, room
from pipeline.recipe.model import Recipe, StepCall


@dataclass(frozen=True)
class PlannedStep:
    """One step, in a line for a person."""

    id: str
    step: str
    does: str


@dataclass(frozen=True)
class PlannedAdapter:
    """An adapter, and how its tensors meet the base."""

    reference: str
    claims: Claims


@dataclass(frozen=True)
class Plan:
    """A recipe that can run, and what it takes."""

    recipe: Recipe
    states: tuple[State, ...]
    """After each step of the recipe."""
    steps: tuple[PlannedStep, ...]
    sources: tuple[Source, ...]
    """The bases and adapters that are read."""
    adapters: tuple[PlannedAdapter, ...]
    outputs: tuple[PlannedOutput, ...]
    peak_memory_bytes: int | None
    """Estimated, of the step that takes most; None when no step reads weights."""
    disks: tuple[Disk, ...]
    """First the one of the run's folder."""
    warnings: tuple[str, ...] = ()

    @property
    def free_disk_bytes(self) -> int:
        """Where the run's folder will be."""
        return self.disks[0].free

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
            "adapters": [
                {
                    "reference": adapter.reference,
                    "tensors": adapter.claims.tensors,
                    "modules": adapter.claims.modules,
                    "left_to_the_load": list(adapter.claims.later),
                }
                for adapter in self.adapters
            ],
            "outputs": [output.to_dict() for output in self.outputs],
            "peak_memory_bytes": self.peak_memory_bytes,
            "disks": [
                {"path": str(disk.path), "needed_bytes": disk.needed, "free_bytes": disk.free}
                for disk in self.disks
            ],
            "warnings": list(self.warnings),
        }


def make_plan(recipe: Recipe) -> Plan:
    """Describe every step of a recipe in order, from configs and headers alone.

    Raises RecipeError with all that the steps refuse, each at its place.
    """
    problems = list(_about_the_run(recipe))
    states, steps, refused = _describe_all(recipe)
    problems += [*refused, *_read_too_early(recipe, states)]
    if problems:
        raise RecipeError(problems)
    sources = tuple(_sources(states))
    outputs = tuple(planned_outputs(recipe, states))
    disks, no_room = room(recipe, sources, outputs)
    problems += [*not_to_be_streamed(recipe, outputs), *no_room]
    if problems:
        raise RecipeError(problems)
    return Plan(
        recipe=recipe,
        states=tuple(states),
        steps=tuple(steps),
        sources=sources,
        adapters=tuple(_claims(states)),
        outputs=outputs,
        peak_memory_bytes=_peak_memory(recipe, states, outputs),
        disks=disks,
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


def _read_too_early(recipe: Recipe, states: Sequence[State]) -> Iterator[Problem]:
    """Steps that load a saved folder before the step that is to judge it, and to let it have its name."""
    before = State()
    for call, state in zip(recipe.steps, states, strict=True):
        base = state.blueprint and state.blueprint.base
        if base and base != (before.blueprint and before.blueprint.base):
            folder = pending_folder(base.model, "model", state)
            if folder and folder.path in states[-1].judged - state.judged:
                refused = Refused(
                    f"{folder.path} has no name yet: a later step is to judge it first",
                    fix="put the `verify` of that folder before this step, or give it `publish: always`",
                )
                yield _problem(refused, call, recipe)
        before = state


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


def _claims(states: Sequence[State]) -> Iterator[PlannedAdapter]:
    """For each adapter on each base, once; those that the recipe itself writes have no tensors yet."""
    seen: set[tuple[str | None, ...]] = set()
    for state in states:
        if state.blueprint is None or pending_folder(state.blueprint.base.model, "model", state):
            continue
        base = state.blueprint.base
        for adapter in state.blueprint.all_adapters:
            key = (base.model, base.revision, adapter.path, adapter.revision)
            if key not in seen and not is_pending(adapter, state):
                seen.add(key)
                claims = claims_of(inspect_adapter(adapter), inspect_base(base))
                yield PlannedAdapter(adapter.path, claims)


def _peak_memory(
    recipe: Recipe, states: Sequence[State], outputs: Sequence[PlannedOutput]
) -> int | None:
    """Of the step that takes most: those with a model in memory, and streams, which hold none."""
    chosen = {output.step_id: output.choice for output in outputs if output.choice}
    peaks = []
    for call, state in zip(recipe.steps, states, strict=True):
        blueprint, choice = state.blueprint, chosen.get(call.id)
        if blueprint is None:
            continue
        if choice and choice.work:
            peaks.append(estimate.stream_bytes(choice.work.tensors))
        elif choice and choice.engine == "stream":
            peaks.append(estimate.modular_bytes(blueprint))
        elif choice or call.step.live:
            peaks.append(_live_bytes(blueprint) + estimate.LIBRARIES)
    return max(peaks, default=None)


def _live_bytes(blueprint: Blueprint) -> int:
    try:
        return estimate.live_bytes(blueprint)
    except InputError:
        return 0
