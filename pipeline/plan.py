"""What a recipe will do, found out before any weight is read; recipes that cannot work end here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline import estimate, tracking
from pipeline.accounting.claims import ClaimCounts, check_claims
from pipeline.blueprint import Blueprint, State
from pipeline.branches import Branch, going_on, latest, walk
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
    claims: ClaimCounts


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
    refused: Mapping[str, Problem] = field(default_factory=dict)
    """What steps of branches refuse, by the step's id; the recipe here is without these branches."""
    passes: tuple[tuple[str, ...], ...] = ()
    """Ids of the steps whose models are written in one pass over their base."""

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
            "passes": [list(ids) for ids in self.passes],
            "refused": {id: str(problem) for id, problem in self.refused.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
            "disks": [
                {"path": str(disk.path), "needed_bytes": disk.needed, "free_bytes": disk.free}
                for disk in self.disks
            ],
            "warnings": list(self.warnings),
        }


def make_plan(recipe: Recipe) -> Plan:
    """Describe every step of a recipe in order, from configs and headers alone.

    Raises RecipeError with all that the steps refuse, each at its place. What goes wrong in some branches
    only is left to the plan's `refused`, and the others are planned.
    """
    problems = list(_about_the_run(recipe))
    described = _describe_all(recipe)
    refused = [*described.refused, *_read_too_early(recipe, described.states)]
    refused += _written_twice(recipe, described.states)
    sound = described.without({call.branch for call, _ in refused})
    if problems or (refused and not sound.calls):
        raise RecipeError([*problems, *dict.fromkeys(problem for _, problem in refused)])
    states, going = sound.states, replace(recipe, steps=tuple(sound.calls))
    sources = tuple(_sources(states))
    outputs = tuple(planned_outputs(going, states))
    disks, no_room = room(recipe, sources, outputs)
    problems = [*not_to_be_streamed(recipe, outputs), *no_room]
    if problems:
        raise RecipeError(problems)
    passes = tuple(_passes(going, states, outputs))
    return Plan(
        recipe=going,
        states=tuple(states),
        steps=tuple(sound.steps),
        sources=sources,
        adapters=tuple(_claims(states)),
        outputs=outputs,
        peak_memory_bytes=_peak_memory(going, states, outputs, passes),
        disks=disks,
        warnings=tuple(dict.fromkeys(text for state in states for text in state.warnings)),
        refused={call.id: problem for call, problem in reversed(refused)},
        passes=passes,
    )


def sources_of(recipe: Recipe) -> tuple[Source, ...]:
    """The bases and adapters that a recipe reads, also where it could not run now, as when its outputs exist.

    Raises InputError when one cannot be read.
    """
    return tuple(_sources(_describe_all(recipe).states))


@dataclass(frozen=True)
class _Described:
    """The steps of a recipe, one by one: the call, the state after it, and what it does in words."""

    calls: list[StepCall]
    states: list[State]
    steps: list[PlannedStep]
    refused: list[tuple[StepCall, Problem]]

    def without(self, branches: Collection[Branch]) -> _Described:
        """What is left when branches are not taken; nothing, when the recipe's beginning is one of them."""
        kept = {call.id for call in going_on(self.calls, branches)}
        here = [n for n, call in enumerate(self.calls) if call.id in kept]
        return _Described(
            [self.calls[n] for n in here],
            [self.states[n] for n in here],
            [self.steps[n] for n in here],
            self.refused,
        )


def _describe_all(recipe: Recipe) -> _Described:
    found = _Described(list(recipe.steps), [], [], [])
    last: dict[Branch, State] = {(): State(run_dir=recipe.run_dir)}
    for call in recipe.steps:
        before = replace(latest(last, call.branch), step_id=call.id)
        try:
            state = _describe(call, before)
        except Refused as refused:
            found.refused.append((call, _problem(refused, call, recipe)))
            state = refused.otherwise or before
        except MergelineError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            found.refused.append((call, _problem(Refused(what, fix=error.fix), call, recipe)))
            state = before
        last[call.branch] = state
        found.states.append(state)
        found.steps.append(PlannedStep(call.id, call.step.name, tell_step(call, before, state)))
    return found


def _describe(call: StepCall, before: State) -> State:
    if "base" in call.step.needs and before.blueprint is None:
        return before  # the step that should have made it was refused, and has been told of
    made: State = call.step.describe(call.settings, before)
    return made


def _about_the_run(recipe: Recipe) -> Iterator[Problem]:
    missing = tracking.check(recipe.tracking) if recipe.tracking else None
    if missing:
        yield Problem(missing, key="tracking", place=recipe.place("tracking"))
    if recipe.workers and find_spec(recipe.workers) is None:
        fix = f"pip install 'mergeline[{recipe.workers}]'"
        what = f"{recipe.workers} is not installed"
        yield Problem(what, fix, key="workers", place=recipe.place("workers"))


def _read_too_early(recipe: Recipe, states: Sequence[State]) -> Iterator[tuple[StepCall, Problem]]:
    """Steps that load a saved folder before the step that is to judge it, and to let it have its name."""
    judged = _judged(states)
    for call, before, state in walk(recipe.steps, states):
        base = state.blueprint and state.blueprint.base
        if base and base != (before.blueprint and before.blueprint.base):
            folder = pending_folder(base.model, "model", state)
            if folder and folder.path in judged - state.judged:
                refused = Refused(
                    f"{folder.path} has no name yet: a later step is to judge it first",
                    fix="put the `verify` of that folder before this step, or give it `publish: always`",
                )
                yield call, _problem(refused, call, recipe)


def _judged(states: Sequence[State]) -> frozenset[Path]:
    """The folders that some step judges before they may have their names."""
    return frozenset(path for state in states for path in state.judged)


def _written_twice(recipe: Recipe, states: Sequence[State]) -> Iterator[tuple[StepCall, Problem]]:
    """Branches that write to the same place."""
    first: dict[Path, StepCall] = {}
    for call, before, state in walk(recipe.steps, states):
        for folder in state.folders[len(before.folders) :]:
            other = first.setdefault(folder.path, call)
            if other.branch != call.branch:
                what = f"{folder.path} is written by {other.id} too"
                refused = Refused(what, fix="put ${branch.name} into the path", key="path")
                yield from ((one, _problem(refused, one, recipe)) for one in (other, call))


def _passes(
    recipe: Recipe, states: Sequence[State], outputs: Sequence[PlannedOutput]
) -> Iterator[tuple[str, ...]]:
    """Branches of one step that are streamed tensor by tensor from the same base.

    None where the files of each go to other machines, which read what they need.
    """
    if recipe.workers:
        return
    direct = {output.step_id for output in outputs if output.choice and output.choice.work}
    together: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for call, state in zip(recipe.steps, states, strict=True):
        if call.id in direct and state.blueprint:
            base = state.blueprint.base
            together[call.line, base.model, base.revision or ""].append(call.id)
    yield from (tuple(ids) for ids in together.values() if len(ids) > 1)


def _problem(refused: Refused, call: StepCall, recipe: Recipe) -> Problem:
    key = f"{call.line}.{refused.key}" if refused.key else call.line
    place = recipe.place(key) if {key, call.line} & recipe.places.keys() else call.place
    return Problem(refused.what, fix=refused.fix, key=key, place=place)


def _sources(states: Sequence[State]) -> Iterator[Source]:
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
                claims = check_claims(inspect_adapter(adapter), inspect_base(base))
                yield PlannedAdapter(adapter.path, claims)


def _peak_memory(
    recipe: Recipe,
    states: Sequence[State],
    outputs: Sequence[PlannedOutput],
    passes: Sequence[Sequence[str]],
) -> int | None:
    """Of the step that takes most: those with a model in memory, and streams, which hold none."""
    chosen = {output.step_id: output.choice for output in outputs if output.choice}
    works = {id: choice.work.tensors for id, choice in chosen.items() if choice.work}
    peaks = [estimate.pass_bytes([works[id] for id in ids]) for ids in passes]
    for call, state in zip(recipe.steps, states, strict=True):
        blueprint, choice = state.blueprint, chosen.get(call.id)
        if blueprint is None:
            continue
        if choice and choice.work:
            peaks.append(estimate.stream_bytes(choice.work.tensors))
        elif choice and choice.engine == "stream":
            peaks.append(estimate.modular_bytes(blueprint))
        else:
            models = [blueprint] if choice else call.step.models(blueprint)
            peaks += [_live_bytes(model) + estimate.LIBRARIES for model in models]
    return max(peaks, default=None)


def _live_bytes(blueprint: Blueprint) -> int:
    try:
        return estimate.live_bytes(blueprint)
    except InputError:
        return 0
