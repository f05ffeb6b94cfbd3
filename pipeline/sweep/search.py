"""Look for the settings that make a figure best: optuna proposes, the jobs of a sweep try.

What optuna knows lies in the sweep's folder, in a journal that is only appended to; so the same command goes
on. Jobs and ledger are those of any sweep, and a trial that fails is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checkpoint.lock import only_writer
from pipeline.errors import COMMAND_LINE, Problem, RecipeError, RunError
from pipeline.recipe.search_space import Dimension, job_with
from pipeline.steps import nearest
from pipeline.sweep.ledger import (
    FILE_NAME,
    AddedLine,
    Ending,
    JobLine,
    Ledger,
    Listed,
    SweepLine,
    attempts,
)
from pipeline.sweep.prepare import Asked, PlannedJob, SweepPlan, plan_job, sweep_folder
from pipeline.sweep.study import distributions, open_study, override
from pipeline.sweep.supervise import Means, Run, Tell, listed, opened, recorded
from pipeline.sweep.task import make_folder

if TYPE_CHECKING:
    from optuna.trial import Trial

_OVERRIDES = "overrides"
_AT_A_TIME = 4
"""Trials, where neither `--workers` nor the launcher says it: more would be chosen knowing less."""


@dataclass(frozen=True)
class Goal:
    """What a search is after."""

    metric: str
    """As in a manifest: `evaluate.loss`."""
    maximize: bool
    trials: int
    """All in all, those of earlier runs of the same search included."""


@dataclass(frozen=True)
class Found:
    """How a search ended."""

    folder: Path
    ending: Ending
    trials: int
    best: tuple[str, ...] = ()
    """Overrides of the best trial; none when no trial has the figure."""
    value: float = math.nan


def check_optuna() -> None:
    """Raises RecipeError when optuna is missing."""
    if find_spec("optuna") is None:
        what, fix = "optuna is not installed", "pip install 'mergeline[search]'"
        raise RecipeError([Problem(what, fix, "--search", COMMAND_LINE)])


def plan_ends(asked: Asked, space: Sequence[Dimension], goal: Goal) -> SweepPlan:
    """The jobs at both ends of all dimensions, between which a search will look. Raises RecipeError."""
    folder = sweep_folder(asked)
    known = attempts(Ledger(folder).read())
    problems: list[Problem] = []
    jobs: list[PlannedJob] = []
    for own in zip(*(dimension.ends for dimension in space), strict=True):
        try:
            jobs.append(plan_job(job_with(asked.request, own), asked, folder, known))
        except RecipeError as error:
            problems += error.problems
    for job in jobs[:1]:
        problems += _without_figure(job, goal)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return SweepPlan(
        folder,
        asked.request.path.stem,
        asked.request.overrides,
        tuple(jobs),
        ledger_bytes=Ledger(folder).bytes(),
    )


def _without_figure(job: PlannedJob, goal: Goal) -> list[Problem]:
    step = goal.metric.partition(".")[0]
    known = [call.id for call in job.recipe.steps]
    if step in known:
        return []
    fix = nearest(step, known) or f"a figure is STEP.FIGURE, of one of {', '.join(known)}"
    key = "--maximize" if goal.maximize else "--minimize"
    return [Problem(f"the recipe has no step {step!r}", fix, key, COMMAND_LINE)]


def run_search(
    asked: Asked, space: Sequence[Dimension], goal: Goal, tell: Tell, means: Means
) -> Found:
    """Try until there are as many trials as asked for; the ledger says how each of them ended.

    Raises RunError when a job that is done has no such figure, and what `run_sweep` raises.
    """
    folder = sweep_folder(asked)
    make_folder(folder)
    with only_writer(folder / FILE_NAME):
        search = _Search(asked, space, goal, folder)
        ending: Ending = "failed"
        with opened(folder, means, means.workers or _AT_A_TIME) as run:
            search.begin()
            try:
                while run.goes_on() and (trials := search.next_trials(run.at_most)):
                    search.try_out(trials, run, tell)
                if run.asked_to_stop:
                    ending = "interrupted"
                elif run.goes_on():
                    ending = "done"
            finally:
                search.end(ending)
        return search.found(ending)


class _Search:
    """A study of optuna's, beside the ledger."""

    def __init__(self, asked: Asked, space: Sequence[Dimension], goal: Goal, folder: Path) -> None:
        self._asked = asked
        self._space = space
        self._goal = goal
        self._folder = folder
        self._ledger = Ledger(folder)
        self._study = open_study(folder, maximize=goal.maximize)

    def begin(self) -> None:
        """Write what is known of earlier trials to the ledger once more."""
        request = self._asked.request
        known = attempts(self._ledger.read())
        self._ledger.append(
            SweepLine(
                status="running",
                recipe=request.path.stem,
                overrides=[*request.overrides, *self._asked.search],
            )
        )
        earlier = [trial for trial in self._study.trials if trial.state.is_finished()]
        jobs = {str(t.user_attrs["job"]): tuple(t.user_attrs[_OVERRIDES]) for t in earlier}
        for job, own in jobs.items():
            for line in list(known.get(job, {}).values())[-1:]:
                done = line.status == "done"
                entry = Listed(job=job, overrides=list(own), folder=line.folder, done=done)
                self._ledger.append(AddedLine(jobs=[entry]))
                self._ledger.append(line)

    def next_trials(self, at_most: int) -> list[Trial]:
        """Those that were cut short, then new ones."""
        from optuna.trial import Trial

        trials = self._study.get_trials(deepcopy=False)
        left = [Trial(self._study, t._trial_id) for t in trials if not t.state.is_finished()]
        room = min(at_most, self._goal.trials - len(trials)) - len(left)
        return left + [self._study.ask(distributions(self._space)) for _ in range(room)]

    def try_out(self, trials: Sequence[Trial], run: Run, tell: Tell) -> None:
        """Run the jobs of some trials, and tell optuna what came of them."""
        known = attempts(self._ledger.read())
        jobs: dict[str, PlannedJob] = {}
        trials_of: dict[str, list[Trial]] = {}
        for trial in trials:
            own = tuple(override(dimension, trial.params) for dimension in self._space)
            trial.set_user_attr(_OVERRIDES, own)
            try:
                job = plan_job(job_with(self._asked.request, own), self._asked, self._folder, known)
            except RecipeError as error:
                self._refuse(trial, own, error)
                continue
            name = job.recipe.fingerprint
            trial.set_user_attr("job", name)
            jobs.setdefault(name, job)
            trials_of.setdefault(name, []).append(trial)
        self._ledger.append(AddedLine(jobs=[listed(job) for job in jobs.values()]))
        for job in jobs.values():
            if job.plan is None:
                self._ledger.append(recorded(job, self._folder))
        run.all_of([job for job in jobs.values() if job.plan is not None], tell)
        lines = attempts(self._ledger.read())
        for name, job in jobs.items():
            line = lines.get(name, {}).get(job.folder)
            for trial in trials_of[name]:
                self._tell_optuna(trial, line)

    def end(self, ending: Ending) -> None:
        self._ledger.append(SweepLine(status=ending, recipe=self._asked.request.path.stem))

    def found(self, ending: Ending) -> Found:
        done = [t for t in self._study.trials if t.value is not None]
        if not done:
            return Found(self._folder, "failed" if ending == "done" else ending, 0)
        best = self._study.best_trial
        own = tuple(best.user_attrs[_OVERRIDES])
        return Found(self._folder, ending, len(self._study.trials), own, float(best.value or 0.0))

    def _refuse(self, trial: Trial, own: tuple[str, ...], error: RecipeError) -> None:
        from optuna.trial import TrialState

        name = f"trial-{trial.number}"
        trial.set_user_attr("job", name)
        why = "; ".join(problem.what for problem in error.problems)
        self._ledger.append(AddedLine(jobs=[Listed(job=name, overrides=list(own), folder=name)]))
        self._ledger.append(JobLine(job=name, folder=name, status="failed", why=why))
        self._study.tell(trial, state=TrialState.FAIL)

    def _tell_optuna(self, trial: Trial, line: JobLine | None) -> None:
        """A trial that did not begin, or was interrupted, stays open, and is gone on with later."""
        from optuna.trial import TrialState

        if line is None or line.status in ("running", "interrupted"):
            return
        value = line.metrics.get(self._goal.metric)
        if line.status == "done" and isinstance(value, int | float) and math.isfinite(value):
            self._study.tell(trial, value)
            return
        self._study.tell(trial, state=TrialState.FAIL)
        if line.status == "done" and value is None:
            figures = ", ".join(sorted(line.metrics)) or "none"
            what = f"there is no figure {self._goal.metric!r}"
            raise RunError(what, where=line.folder, fix=f"its figures are: {figures}")
