"""The runner: the steps of a planned recipe in order, each timed, recorded and caught."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline import logs, manifest, memory, secrets, tracking
from pipeline.beginning import first_manifest, now, skip, told_path
from pipeline.blueprint import Blueprint, State
from pipeline.checkpoint.hashes import HashingAside, hash_files, hash_inputs
from pipeline.checkpoint.holding import Holding
from pipeline.checkpoint.lock import only_writer
from pipeline.checkpoint.source import Source
from pipeline.errors import is_interruption
from pipeline.explain import explain
from pipeline.manifest import ErrorRecord, Figure, FileRecord, Histogram, Manifest, StepRecord
from pipeline.recipe.model import Recipe, StepCall

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.realise.live import LiveModel
    from pipeline.realise.stream import Stream
    from pipeline.realise.stream.together import Save

log = logging.getLogger("mergeline")


class Bar(Protocol):
    """Progress of one piece of long work."""

    def advance(self, amount: float = 1) -> None: ...


class Console(Protocol):
    """What a run tells the person who watches it; `report/terminal.py` has the real ones."""

    def run_started(self, recipe: Recipe) -> None: ...
    def step_started(self, number: int, of: int, id: str, summary: str) -> None: ...
    def step_done(self, id: str, seconds: float) -> None: ...
    def step_failed(self, id: str, seconds: float, why: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def bar(self, label: str, total: float, unit: str = "") -> AbstractContextManager[Bar]:
        """Unit `B` shows bytes."""
        ...


class RunContext:
    """What an acting step may use: the state it works on, and ways to tell what it made."""

    def __init__(self, recipe: Recipe, console: Console, judged: Collection[Path] = ()) -> None:
        self.recipe = recipe
        self.console = console
        self.dir = recipe.run_dir
        """The run's folder."""
        self.state = State(run_dir=recipe.run_dir)
        """As the running step described it: `save` finds its own folder in here."""
        self.record = StepRecord(id="", step="")
        """What the manifest will say of the running step."""
        self._made: list[Path] = []
        self._known: dict[Path, str] = {}
        self._used: list[Path] = []
        self._live: LiveModel | None = None
        self.holding = Holding(judged)
        """The folders that wait for a step to judge them; `judged` says which those are."""
        self.ahead: dict[Path, Stream] = {}
        """Models whose weights were written with those of other branches, by the folder that they wait in."""
        self.hashing: HashingAside | None = None
        """The inputs that are hashed while the steps run."""

    @property
    def step_id(self) -> str:
        """The id of the running step."""
        return self.record.id

    @property
    def blueprint(self) -> Blueprint:
        """The model as it stands at this step."""
        assert self.state.blueprint is not None
        return self.state.blueprint

    def live(self, blueprint: Blueprint | None = None) -> LiveModel:
        """The model (by default, as it stands at this step) in memory.

        Kept until another one is asked for: one base at a time, always built from the files anew. A
        model that has run is never changed into another, because bitsandbytes repacks 4-bit weights at
        the first forward pass on some CPUs and PEFT then computes with the wrong layout.
        """
        from pipeline.realise.live import realise

        wanted = blueprint or self.blueprint
        if self._live is None or self._live.blueprint != wanted:
            self.release()
            self._live = realise(
                wanted, device=self.recipe.device, seed=self.recipe.seed, console=self.console
            )
            for text in self._live.warnings:
                self.warn(text)
        return self._live

    @contextmanager
    def standing_at(self, state: State, record: StepRecord) -> Iterator[None]:
        """Be at another step for a while."""
        before = self.state, self.record
        self.state, self.record = state, record
        try:
            yield
        finally:
            self.state, self.record = before

    def release(self) -> None:
        """Drop the live model, for a step that is about to need the memory or to change the model."""
        self._live = None

    def note(self, text: str) -> None:
        """Say something to the user; it goes to the log and the manifest too."""
        text = secrets.redact_text(text)
        log.info("%s: %s", self.step_id, text)
        self.record.notes.append(text)
        self.console.note(text)

    def warn(self, text: str) -> None:
        """Like `note`, for what the user should look into."""
        text = secrets.redact_text(text)
        log.warning("%s: %s", self.step_id, text)
        self.record.warnings.append(text)
        self.console.warn(text)

    def metrics(self, figures: Mapping[str, Figure]) -> None:
        """Record figures; in the manifest they stand as `<step id>.<name>`.

        JSON has no infinity and no NaN: such a figure is recorded as the word.
        """
        self.record.metrics |= manifest.for_json(figures)

    def bounds(self, bounds: Mapping[str, float | None]) -> None:
        """Record what figures of the same names are held against; None is no bound."""
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        self.record.bounds |= manifest.for_json(given)

    def modules(self, figures: Mapping[str, Mapping[str, Figure]]) -> None:
        """Record figures of single modules, by the module's name; the page draws them by layer."""
        self.record.modules |= {name: manifest.for_json(found) for name, found in figures.items()}

    def histogram(self, name: str, found: Histogram) -> None:
        """Record how often values occur; the page draws it."""
        self.record.histograms[name] = found

    def made(self, path: Path, hashes: Mapping[str, str] | None = None) -> None:
        """Record a file or folder that this step wrote; its files are hashed into the manifest.

        `hashes` are those that are known already, by the file's name in the folder. A folder that waits to
        be judged counts for the step that publishes it.
        """
        self._made.append(path)
        self._known |= {path / name: found for name, found in (hashes or {}).items()}

    def used(self, path: Path) -> None:
        """Record a file that this step read, besides the base and the adapters."""
        self._used.append(path)

    def bar(self, label: str, total: float, unit: str = "") -> AbstractContextManager[Bar]:
        """A progress bar."""
        return self.console.bar(label, total, unit)

    def take_made(self) -> list[FileRecord]:
        """The files that the step made, with their hashes; begins a new list."""
        waiting = [path for path in self._made if self.holding.where(path) != path]
        made = _files_in([path for path in self._made if path not in waiting])
        self._made = waiting
        known = {file: self._known.pop(file) for file in made if file in self._known}
        new = [file for file in made if file not in known]
        with self.bar("hashing", sum(f.stat().st_size for f in new), unit="B") as bar:
            return self.records(made, {**known, **hash_files(new, bar.advance)})

    def take_used(self) -> list[FileRecord]:
        """The files that steps used, hashed."""
        used = sorted(set(self._used))
        return self.records(used, hash_inputs(used))

    def hashes_of(self, files: Sequence[Path]) -> dict[Path, str]:
        """The hashes of inputs. Waits for those that are being hashed while the steps run."""
        aside = self.hashing
        new = [file for file in files if aside is None or file not in aside.files]
        size = sum(file.stat().st_size for file in new) + (aside.bytes if aside else 0)
        with self.bar("hashing the inputs", size, unit="B") as bar:
            known = aside.result(bar.advance) if aside else {}
            return known | hash_inputs(new, bar.advance)

    def records(self, files: list[Path], hashes: Mapping[Path, str]) -> list[FileRecord]:
        """Files with the hashes that are known of them."""
        return [
            FileRecord(path=told_path(f, self.dir), bytes=f.stat().st_size, blake3=hashes[f])
            for f in files
        ]


def run(recipe: Recipe, plan: Plan, console: Console) -> Manifest:
    """Run the steps of a planned recipe, and return the manifest, which is also in the run's folder.

    Whatever a step raises is caught, recorded in the manifest and told to the console; the status of
    the manifest says how the run ended. Raises OutputError when another run has this folder.
    """
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    with only_writer(recipe.run_dir / manifest.FILE_NAME):
        return _run(recipe, plan, console)


def _run(recipe: Recipe, plan: Plan, console: Console) -> Manifest:
    record = first_manifest(recipe, plan)
    context = RunContext(recipe, console, {path for state in plan.states for path in state.judged})
    started = time.perf_counter()
    with logs.run_log(recipe.run_dir / logs.FILE_NAME), terminate_politely():
        try:
            record.write()
            log.info("recipe %s, overrides %s", recipe.path, list(recipe.overrides))
            console.run_started(recipe)
            with _hashing_inputs(plan) as context.hashing:
                _run_steps(recipe, plan, context, record)
                record.write()
                _finish_inputs(plan, context, record)
            record.status = "failed" if record.error else "done"
        except _StepFailedError:
            record.status = "failed"
        except BaseException as error:
            if is_interruption(error):
                record.status = "interrupted"
            else:
                record.status, record.error = "failed", explain(error)
                log.error("the run failed", exc_info=error)
                raise
        finally:
            context.release()
            context.holding.drop()
            record.finished = now()
            record.seconds = round(time.perf_counter() - started, 3)
            record.write()
            log.info("run %s after %.1f s", record.status, record.seconds)
        _track(recipe, record, console)
    return record


class _StepFailedError(Exception):
    """A step failed, and the manifest tells why."""


def _run_steps(recipe: Recipe, plan: Plan, context: RunContext, record: Manifest) -> None:
    """All steps in order. One that fails ends the run, or in a branch only the branch."""
    states = {step.id: state for step, state in zip(plan.steps, plan.states, strict=True)}
    passes = {id: ids for ids in plan.passes for id in ids}
    entries = list(zip(recipe.steps, record.steps, strict=True))
    for number, (call, entry) in enumerate(entries, start=1):
        if entry.status != "waiting":
            if entry.error is not None:
                context.console.step_started(number, len(entries), call.id, entry.does)
                context.console.step_failed(call.id, 0, _say(entry.error, recipe, call))
            continue
        context.state, context.record = states[call.id], entry
        entry.status = "running"
        if call.step.action is not None:  # the others are done before anybody could look
            record.write()
        context.console.step_started(number, len(entries), call.id, entry.does)
        memory.reset_peak()
        started = time.perf_counter()
        try:
            together = passes.pop(call.id, ())
            if together:
                _write_together(context, [one for one in entries if one[0].id in together], states)
                passes = {id: ids for id, ids in passes.items() if id not in together}
            if call.step.action is not None:
                call.step.action(call.settings, context)
                entry.outputs = context.take_made()
            entry.status = "done"
        except BaseException as error:
            stopped = is_interruption(error)
            entry.error = explain(KeyboardInterrupt() if stopped else error)
            entry.status = "interrupted" if stopped else "failed"
            record.error = record.error or entry.error
            skip(entries[number:], () if stopped else call.branch)
            log.error("%s failed", call.id, exc_info=error)
            context.console.step_failed(
                call.id, time.perf_counter() - started, _say(entry.error, recipe, call)
            )
            if stopped or not call.branch:
                raise (KeyboardInterrupt if stopped else _StepFailedError) from error
        finally:
            entry.seconds = round(time.perf_counter() - started, 3)
            entry.peak_memory_bytes = memory.peak_bytes()
        if entry.status == "done":
            context.console.step_done(call.id, entry.seconds)


def _write_together(
    context: RunContext,
    steps: Iterable[tuple[StepCall, StepRecord]],
    states: Mapping[str, State],
) -> None:
    from pipeline.realise.stream.together import write_together

    going = [(call, entry) for call, entry in steps if entry.status in ("waiting", "running")]
    write_together(context, [save_of(context, call, states[call.id], e) for call, e in going])


def save_of(context: RunContext, call: StepCall, state: State, record: StepRecord) -> Save:
    """What a `save` step is going to do."""
    from pipeline.realise.stream.together import Save

    how = call.settings
    path = Path(how.path)
    return Save(context, state, record, path, how.dtype, how.max_shard_size, how.overwrite)


@contextmanager
def _hashing_inputs(plan: Plan) -> Iterator[HashingAside]:
    """Hash the inputs that lie on this machine while the steps run."""
    local = [source for source in plan.sources if source.folder is not None]
    hashing = HashingAside([file for source in local for file in _files_of(source)])
    try:
        yield hashing
    finally:
        hashing.stop()


def _files_of(source: Source) -> list[Path]:
    folder = source.fetch()
    return [folder / name for name in sorted(source.files) if (folder / name).is_file()]


def _finish_inputs(plan: Plan, context: RunContext, record: Manifest) -> None:
    """Put the hashes of what went in into the manifest; files of the Hub are hashed now."""
    context.record = StepRecord(id="inputs", step="inputs")
    files = [(source, _files_of(source)) for source in plan.sources]
    known = context.hashes_of([file for _, found in files for file in found])
    hashed: list[FileRecord] = []
    for source, found in files:
        for entry in context.records(found, known):
            entry.repo, entry.commit = source.repo, source.commit
            hashed.append(entry)
    record.inputs = hashed + context.take_used()


def _track(recipe: Recipe, record: Manifest, console: Console) -> None:
    """Send the figures to the tracker, if one was asked for; a tracker that fails loses no run."""
    if recipe.tracking is None:
        return
    try:
        tracking.report(recipe, record)
    except Exception as error:  # third parties raise anything, and the merge itself is done
        log.error("tracking failed", exc_info=error)
        console.warn(f"{recipe.tracking} could not be told of this run: {error}")


def _say(error: ErrorRecord, recipe: Recipe, call: StepCall) -> str:
    where = error.where or str(recipe.place(call.id))
    return f"{where}: {error.what}" + (f"\n{error.fix}" if error.fix else "")


def _files_in(paths: list[Path]) -> list[Path]:
    """The files themselves and all files below the folders, in a stable order."""
    below = [path.rglob("*") if path.is_dir() else [path] for path in paths]
    return sorted({file for files in below for file in files if file.is_file()})


@contextmanager
def terminate_politely() -> Iterator[None]:
    """A SIGTERM (a cluster's, `timeout`'s) or SIGHUP (a closed terminal's) ends the run as Ctrl-C does:
    recorded, nothing half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
