"""The runner: order, records, failures, interruptions."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3

from pipeline.blueprint import State
from pipeline.checkpoint.source import Source, locate
from pipeline.errors import MergeError, OutputError, Place
from pipeline.manifest import Manifest, read_manifest
from pipeline.recipe.model import Recipe, StepCall
from pipeline.run import RunContext, run
from pipeline.steps import Step, step_settings


@step_settings
class NoSettings:
    pass


class Told:
    """A console that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def run_started(self, recipe: Recipe) -> None:
        self.events.append("started")

    def step_started(self, number: int, of: int, id: str, summary: str) -> None:
        self.events.append(f"{number}/{of} {id}")

    def step_done(self, id: str, seconds: float) -> None:
        self.events.append(f"{id} done")

    def step_failed(self, id: str, seconds: float, why: str) -> None:
        self.events.append(f"{id} failed: {why}")

    def note(self, text: str) -> None:
        self.events.append(text)

    def warn(self, text: str) -> None:
        self.events.append(f"warning: {text}")

    @contextmanager
    def bar(self, label: str, total: float, unit: str = "") -> Iterator[Any]:
        yield SimpleNamespace(advance=lambda amount=1: None)


@dataclass(frozen=True)
class Steps:
    """Steps made of plain functions, run as a recipe in `folder`."""

    folder: Path

    def __call__(
        self, sources: tuple[Source, ...] = (), **actions: Callable[[RunContext], None]
    ) -> tuple[Manifest, Told]:
        file = self.folder / "recipe.yaml"
        file.write_text("steps: []\n")
        calls = tuple(
            _call(name, action, line)
            for line, (name, action) in enumerate(actions.items(), start=2)
        )
        recipe = Recipe(
            "test",
            file,
            calls,
            run_dir=self.folder / "run",
            places={call.id: call.place for call in calls},
            fingerprint="f" * 64,
        )
        plan = SimpleNamespace(
            states=tuple(State(step_id=c.id) for c in calls),
            steps=tuple(SimpleNamespace(id=c.id, does="does it") for c in calls),
            sources=sources,
            warnings=(),
            passes=(),
            refused={},
            engine="live",
        )
        told = Told()
        return run(recipe, plan, told), told  # type: ignore[arg-type]

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "run")

    @property
    def log(self) -> str:
        return (self.folder / "run" / "run.log").read_text()


def _call(name: str, action: Callable[[RunContext], None], line: int) -> StepCall:
    def describe(settings: NoSettings, state: State) -> State:
        return state

    step = Step(describe, (), (), live=False)
    step.act(lambda settings, context: action(context))
    return StepCall(name, step, None, NoSettings(), Place("recipe.yaml", line))


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


def test_steps_run_in_order_and_are_recorded(steps: Steps) -> None:
    seen: list[str] = []
    manifest, told = steps(first=lambda run: seen.append("1"), second=lambda run: seen.append("2"))
    assert seen == ["1", "2"]
    assert manifest.status == "done"
    assert [s.status for s in manifest.steps] == ["done", "done"]
    assert told.events == ["started", "1/2 first", "first done", "2/2 second", "second done"]
    assert [s.does for s in manifest.steps] == ["does it", "does it"]
    assert steps.manifest == manifest


def test_what_a_step_makes_is_hashed_into_the_manifest(steps: Steps) -> None:
    def make(run: RunContext) -> None:
        (run.dir / "model").mkdir()
        (run.dir / "model" / "weights").write_bytes(b"w" * 3_000_000)
        run.made(run.dir / "model")
        run.metrics({"bytes": 3_000_000})

    manifest, _ = steps(make=make)
    (record,) = manifest.outputs
    assert (record.path, record.bytes) == ("model/weights", 3_000_000)
    assert record.blake3 == blake3(b"w" * 3_000_000).hexdigest()
    assert manifest.metrics == {"make.bytes": 3_000_000}


def test_a_data_file_that_a_step_reads_is_an_input(steps: Steps, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("some text")
    manifest, _ = steps(read=lambda run: run.used(data))
    assert [(i.path, i.bytes) for i in manifest.inputs] == [(str(data), 9)]


def test_a_failure_stops_the_run_and_says_where_and_what_to_do(steps: Steps) -> None:
    def fail(run: RunContext) -> None:
        raise MergeError("tensor x fits nowhere", where="adapter/model.bin", fix="use its own base")

    manifest, told = steps(before=lambda run: None, bad=fail, after=lambda run: pytest.fail("ran"))
    assert manifest.status == "failed"
    assert [s.status for s in manifest.steps] == ["done", "failed", "skipped"]
    assert manifest.error is not None
    assert (manifest.error.where, manifest.error.fix) == ("adapter/model.bin", "use its own base")
    assert (
        told.events[-1] == "bad failed: adapter/model.bin: tensor x fits nowhere\nuse its own base"
    )
    assert steps.manifest.status == "failed"


def test_what_goes_in_is_recorded_from_the_start_and_hashed_at_the_end(
    steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes(b"{}")
    source = locate("./base")

    def fail(run: RunContext) -> None:
        raise MergeError("no")

    failed, _ = steps(sources=(source,), bad=fail)
    done, _ = steps(sources=(source,), good=lambda run: None)
    path = str(base / "config.json")
    assert [(i.path, i.bytes, i.blake3) for i in failed.inputs] == [(path, 2, None)]
    (record,) = done.inputs
    assert (record.path, record.bytes) == (path, 2)
    assert record.blake3 == blake3(b"{}").hexdigest()


def test_an_error_that_nobody_foresaw_is_told_in_a_line_and_traced_in_the_log(steps: Steps) -> None:
    manifest, told = steps(bad=lambda run: {}["no such key"])
    assert manifest.status == "failed"
    assert "recipe.yaml:2: KeyError: 'no such key'" in told.events[-1]
    assert "Traceback" not in told.events[-1]
    assert "Traceback" in steps.log
    assert "no such key" in steps.log


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your disk quota is used up"),
        (OSError(errno.EFBIG, "File too large"), "a file would be larger than may be written here"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_common_failures_have_plain_words(steps: Steps, error: BaseException, what: str) -> None:
    def fail(run: RunContext) -> None:
        raise error

    manifest, _ = steps(bad=fail)
    assert manifest.status == "failed"
    assert manifest.error is not None
    assert manifest.error.what == what
    assert manifest.error.fix


def test_an_interruption_is_recorded_and_not_raised(steps: Steps) -> None:
    def interrupt(run: RunContext) -> None:
        raise KeyboardInterrupt

    manifest, _ = steps(long=interrupt, after=lambda run: pytest.fail("ran"))
    assert manifest.status == "interrupted"
    assert [s.status for s in steps.manifest.steps] == ["interrupted", "skipped"]


def test_an_error_that_came_of_an_interruption_is_one(steps: Steps) -> None:
    def interrupt(run: RunContext) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("a library that tidies up half-made things")

    manifest, _ = steps(long=interrupt)
    assert manifest.status == "interrupted"
    assert manifest.error
    assert manifest.error.what == "interrupted"


def test_a_failure_outside_of_the_steps_is_recorded_and_raised(
    steps: Steps, tmp_path: Path
) -> None:
    data = tmp_path / "data.txt"
    data.write_text("text")

    def use_and_lose(run: RunContext) -> None:
        run.used(data)
        data.unlink()

    with pytest.raises(FileNotFoundError):
        steps(step=use_and_lose)
    assert steps.manifest.status == "failed"
    assert steps.manifest.error
    assert "data.txt" in steps.manifest.error.what
    assert "Traceback" in steps.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_a_run_as_ctrl_c_does(steps: Steps, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    manifest, _ = steps(long=lambda run: os.kill(os.getpid(), number) or time.sleep(5))
    assert manifest.status == "interrupted"
    assert signal.getsignal(number) is before


def test_a_run_under_nohup_goes_on_when_the_terminal_closes(steps: Steps) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        manifest, _ = steps(long=lambda run: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert manifest.status == "done"


def test_two_runs_never_write_one_folder(steps: Steps) -> None:
    def second(run: RunContext) -> None:
        with pytest.raises(OutputError, match="another run is writing it"):
            steps(inner=lambda run: pytest.fail("ran"))

    manifest, _ = steps(first=second)
    assert manifest.status == "done"
    assert [s.id for s in steps.manifest.steps] == ["first"]
    assert sorted(p.name for p in (steps.folder / "run").iterdir()) == ["manifest.json", "run.log"]


def test_a_killed_run_still_tells_how_far_it_came(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.test_run import Steps\n"
        "Steps(Path(sys.argv[1]))(first=lambda run: run.note('half way'),"
        " second=lambda run: os.kill(os.getpid(), signal.SIGKILL))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    manifest = Steps(tmp_path).manifest
    assert manifest.status == "running"
    assert [s.status for s in manifest.steps] == ["done", "running"]
    assert manifest.steps[0].notes == ["half way"]
    assert "half way" in Steps(tmp_path).log


def test_secrets_reach_neither_log_nor_manifest_nor_terminal(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_" + "abcdefghijklmnopqrstuvwxyz123456"
    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery")

    def leak(run: RunContext) -> None:
        run.note(f"token {secret}")
        run.warn("key correct-horse-battery")
        raise ValueError(f"cannot open https://user:{secret}@host/x")

    _, told = steps(leak=leak)
    everything = "\n".join([*told.events, steps.log, steps.manifest.model_dump_json()])
    assert secret not in everything
    assert "correct-horse-battery" not in everything
    assert "cannot open" in everything


def test_peak_memory_is_that_of_the_step(steps: Steps) -> None:
    def large(run: RunContext) -> None:
        bytearray(b"x") * 400_000_000

    manifest, _ = steps(large=large, small=lambda run: None)
    first, second = (s.peak_memory_bytes or 0 for s in manifest.steps)
    assert first > 400_000_000
    assert second < first - 200_000_000


def test_figures_and_notes_of_a_failed_step_are_kept(steps: Steps) -> None:
    def fail(run: RunContext) -> None:
        run.metrics({"kl": 1.5})
        run.note("far off")
        raise MergeError("differs")

    manifest, _ = steps(verify=fail)
    assert manifest.metrics == {"verify.kl": 1.5}
    assert manifest.steps[0].notes == ["far off"]


def test_figures_that_json_cannot_hold_are_words(steps: Steps) -> None:
    def measure(run: RunContext) -> None:
        run.metrics({"perplexity": float("inf"), "loss": float("nan"), "kl": 0.5})

    steps(evaluate=measure)
    text = (steps.folder / "run" / "manifest.json").read_text()
    metrics = json.loads(text, parse_constant=pytest.fail)["steps"][0]["metrics"]
    assert metrics == {"perplexity": "inf", "loss": "nan", "kl": 0.5}


def test_a_bound_that_is_none_is_not_recorded(steps: Steps) -> None:
    steps(prove=lambda run: run.bounds({"error": 0.05, "kl": None}))
    assert steps.manifest.steps[0].bounds == {"error": 0.05}


def test_figures_of_modules_stand_by_their_names(steps: Steps) -> None:
    def prove(run: RunContext) -> None:
        run.modules({"layers.0.q_proj": {"error": 0.25, "kept": float("nan")}})
        run.modules({"layers.1.q_proj": {"error": 0.5}})

    steps(prove=prove)
    assert steps.manifest.steps[0].modules == {
        "layers.0.q_proj": {"error": 0.25, "kept": "nan"},
        "layers.1.q_proj": {"error": 0.5},
    }


def test_a_live_model_is_kept_for_its_blueprint_and_built_anew_for_another(
    steps: Steps, base_model: Callable[..., Path]
) -> None:
    from pipeline.blueprint import Base, Blueprint

    one = Blueprint(Base(str(base_model("llama"))))
    other = replace(one, base=replace(one.base, dtype="float32"))

    def use(run: RunContext) -> None:
        first = run.live(one)
        assert run.live(one) is first
        second = run.live(other)
        assert second is not first
        assert run.live(one) is not first

    manifest, _ = steps(use=use)
    assert manifest.status == "done", manifest.error
