"""What the command line says of launchers and resources, and how jobs are packed onto this machine."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.jobs import load_request
from pipeline.plan import Plan, make_plan
from pipeline.recipe.hydra_app import Request
from pipeline.sweep import launchers
from pipeline.sweep.launchers.local import Room
from pipeline.sweep.orders import Order, Orders
from pipeline.sweep.resources import Asked, Resources, local_gpus, resources_of
from pipeline.sweep.task import Task
from tests.fixtures.folders import make_base
from tests.sweep.conftest import Call


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--launcher", "rai"], "--launcher: must be one of local, joblib, slurm, ray, got 'rai'"),
        (["launcher.address=auto"], "launcher.address: is not known here: there are none"),
        (["resources.cpu=2"], "did you mean 'cpus'?"),
        (["resources.cpus=0"], "resources.cpus: input should be greater than or equal to 1, got 0"),
        (["resources.memory=much"], "resources.memory: string should match pattern"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    mergeline: Call, tmp_path: Path, words: list[str], said: str
) -> None:
    done = mergeline("sweep", "r.yaml", "misbehave.factor=1,2", "--plan", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "whose"),
    [
        (["workers=ray"], ""),
        (["workers=ray,null"], " (with workers=ray)"),
        (["--jobs", "jobs.csv"], " (with misbehave.factor=2 workers=ray)"),
        (
            ["workers=ray", "--search", "misbehave.factor=1,2", "--maximize", "misbehave.loss"],
            "",
        ),
    ],
    ids=["all", "grid", "rows", "search"],
)
def test_tasks_of_ray_that_wait_for_tasks_of_ray_are_refused(
    mergeline: Call, tmp_path: Path, words: list[str], whose: str
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    if "--search" in words:
        pytest.importorskip("optuna", reason="optuna is not installed: pip install '.[search]'")
    (tmp_path / "jobs.csv").write_text("misbehave.factor,workers\n1,\n2,ray\n")
    done = mergeline("sweep", "r.yaml", "--launcher", "ray", *words)
    assert done.returncode == 2
    said = "workers: jobs that are tasks of ray would hold the CPUs that their own tasks wait for"
    assert f"{said}{whose}\n" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_library_that_is_missing_is_told_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in [key for key in sys.modules if key.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RecipeError, match=r"pip install 'mergeline\[ray\]'"):
        launchers.launcher_of("ray")


GENERATE = "generate: {prompts: [Hi]}"


def plan_of(folder: Path, *steps: str, device: str = "auto") -> Plan:
    make_base(folder / "base")
    recipe = folder / "r.yaml"
    lines = ["steps:", f"  - load_base: {{model: {folder / 'base'}}}", *(f"  - {s}" for s in steps)]
    recipe.write_text("\n".join(lines), encoding="utf-8")
    overrides = (f"hydra.run.dir={folder / 'run'}", f"device={device}")
    return make_plan(load_request(Request(recipe, overrides)))


def test_a_job_needs_what_its_plan_says_unless_it_is_given(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, "save"), peak_memory_bytes=8_000_000_000)
    assert resources_of(plan, Asked(), cpus=3, gpus_there=True) == Resources(3, 0, 10_000_000_000)
    asked = Asked(cpus=4, gpus=2, memory="1.5GB")
    assert resources_of(plan, asked, cpus=1, gpus_there=False) == Resources(4, 2, 1_500_000_000)


@pytest.mark.parametrize(("words", "threads"), [([], 1), (["resources.cpus=3"], 3)])
def test_a_job_computes_with_as_many_threads_as_it_was_given(
    mergeline: Call, tmp_path: Path, words: list[str], threads: int
) -> None:
    done = mergeline("sweep", "r.yaml", "misbehave.factor=1,2", "hydra.sweep.dir=sweep", *words)
    assert done.returncode == 0, done.stderr
    told = [file.read_text() for file in (tmp_path / "sweep").glob("*/terminal.log")]
    assert len(told) == 2
    assert all(f"may use {threads} threads\n" in text for text in told)


@pytest.mark.parametrize(
    ("device", "step", "there", "gpus", "gpu"),
    [
        ("auto", "save", True, 0, None),
        ("auto", GENERATE, True, 1, None),
        ("auto", GENERATE, False, 0, None),
        ("cpu", GENERATE, True, 0, None),
        ("cuda", GENERATE, False, 1, None),
        ("cuda:1", GENERATE, True, 1, 1),
    ],
)
def test_a_gpu_is_for_what_holds_a_model(
    tmp_path: Path, device: str, step: str, there: bool, gpus: int, gpu: int | None
) -> None:
    needs = resources_of(plan_of(tmp_path, step, device=device), Asked(), cpus=1, gpus_there=there)
    assert (needs.gpus, needs.gpu) == (gpus, gpu)


def test_gpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert local_gpus() == [1, 3]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_gpus() == []


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    orders = Orders(tmp_path)
    orders.begin()
    return orders


def task(folder: Path, resources: Resources, orders: Orders) -> Task:
    return Task("job", Request(Path("r.yaml")), folder, "job", Path(), orders, resources)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Resources(1, 0, 40), Resources(1, 0, 60), True),
        (Resources(1, 0, 41), Resources(1, 0, 60), False),
        (Resources(1, 0, 999), Resources(1, 0, 1), False),
        (Resources(1, 1, 1), Resources(1, 1, 1), True),
        (Resources(1, 1, 1), Resources(1, 2, 1), False),
        (Resources(1, 1, 1, gpu=1), Resources(1, 1, 1, gpu=1), False),
        (Resources(1, 1, 1, gpu=1), Resources(1, 1, 1), True),
    ],
)
def test_jobs_run_together_when_memory_and_gpus_suffice_for_both(
    tmp_path: Path, orders: Orders, first: Resources, second: Resources, together: bool
) -> None:
    room = Room(memory=100, gpus=[0, 1])
    one, other = task(tmp_path, first, orders), task(tmp_path, second, orders)
    mine = room.enter(one)
    assert mine is not None
    theirs: list[set[int] | None] = []
    thread = threading.Thread(target=lambda: theirs.append(room.enter(other)))
    thread.start()
    thread.join(0.3 if not together else 10)

    assert thread.is_alive() is not together
    room.leave(one, mine)
    thread.join(10)
    assert theirs[0] is not None
    if together:
        assert not mine & theirs[0], "no GPU serves two"


def test_a_job_that_waits_for_room_ends_when_it_is_told_to(tmp_path: Path, orders: Orders) -> None:
    room = Room(memory=100, gpus=[])
    one = task(tmp_path, Resources(1, 0, 100), orders)
    room.enter(one)
    orders.end()
    assert room.enter(one) is None


def test_orders_are_read_from_wherever_a_worker_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    orders = Orders(Path("."))
    orders.begin()
    monkeypatch.chdir("/")
    assert orders.read() is Order.GO_ON


def test_orders_are_those_of_the_sweep_that_runs_in_the_folder(tmp_path: Path) -> None:
    first, second = Orders(tmp_path), Orders(tmp_path)
    first.begin()
    assert first.read() is Order.GO_ON
    second.begin()
    assert first.read() is Order.END, "a sweep that was killed told its jobs nothing"
    second.kill()
    assert second.read() is Order.KILL
    second.clear()
    assert list(tmp_path.iterdir()) == []
