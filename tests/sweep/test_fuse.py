"""Jobs that share a base: one pass writes their weights, and nothing else tells them from jobs alone."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pipeline.checkpoint.journal import FILE_NAME as JOURNAL
from pipeline.manifest import read_manifest
from pipeline.recipe.hydra_app import Request
from pipeline.sweep.fuse import passes_of, write_pass
from pipeline.sweep.launchers import LAUNCHERS
from pipeline.sweep.orders import Orders
from pipeline.sweep.prepare import Asked, SweepPlan, prepare
from pipeline.sweep.status import JobRow, read_status
from pipeline.sweep.supervise import Means
from tests.fixtures.models import build_adapter, build_base
from tests.sweep.conftest import Call, Start

RECIPE = """
params: {adapter: ./a}
steps:
  - load_base: {model: ./base}
  - attach_adapter: {path: "${params.adapter}"}
  - merge
  - save: {max_shard_size: 40KB}
"""
WORDS = ("sweep", "m.yaml", "params.adapter=a,b,bad", "save.dtype=keep,float16")
FILES = 7
"""Of weights, in each model that keeps its dtype."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    base = build_base(folder / "base")
    for seed, name in enumerate(("a", "b", "bad")):
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
        build_adapter(folder / name, base, config, seed=seed)
    file = folder / "bad" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[max(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "m.yaml").write_text(RECIPE)
    return tmp_path


def rows(sweep: Path) -> dict[str, JobRow]:
    return {" ".join(job.overrides): job for job in read_status(sweep).jobs}


def model(sweep: Path, row: JobRow) -> dict[str, bytes]:
    """What is published, but for what tells the time."""
    files = [file for file in (sweep / row.folder / "model").iterdir() if file.is_file()]
    return {file.name: file.read_bytes() for file in files if file.name != "mergeline.json"}


def hidden(sweep: Path) -> list[Path]:
    return list(sweep.rglob(".*"))


def test_one_pass_gives_each_job_what_it_has_alone(mergeline: Call, here: Path) -> None:
    planned = json.loads(mergeline(*WORDS, "--plan", "--json", "hydra.sweep.dir=fused").stdout)
    fused = mergeline(*WORDS, "hydra.sweep.dir=fused", "--workers", "2")
    apart = mergeline(*WORDS, "hydra.sweep.dir=apart", "--no-fuse")

    (one,) = planned["passes"]
    assert one["base"] == "./base"
    assert one["saves"] == {job["folder"]: ["save"] for job in planned["jobs"]}
    assert "6 jobs are written in one pass over ./base" in fused.stderr
    assert "in one pass" not in apart.stderr
    assert fused.returncode == apart.returncode == 1, fused.stderr
    together, alone = rows(here / "fused"), rows(here / "apart")
    assert [row.status for row in together.values()] == ["done"] * 4 + ["failed"] * 2
    for name, row in together.items():
        assert (row.status, row.folder, row.metrics) == (
            alone[name].status,
            alone[name].folder,
            alone[name].metrics,
        )
        assert row.why.replace("fused", "apart") == alone[name].why
        assert (here / "fused" / row.folder / "report.html").is_file()
        if row.status == "done":
            assert model(here / "fused", row) == model(here / "apart", alone[name])
            notes = read_manifest(here / "fused" / row.folder).steps[3].notes
            assert any("files of weights were finished before this run" in note for note in notes)
    assert "holds NaN or infinite values" in together["params.adapter=bad save.dtype=keep"].why
    assert not hidden(here / "fused")

    again = json.loads(mergeline(*WORDS, "--plan", "--json", "hydra.sweep.dir=fused").stdout)
    assert [job["why"] for job in again["jobs"]] == ["done"] * 4 + ["failed before"] * 2


def test_a_pass_that_was_killed_goes_on_with_what_it_had_finished(
    start: Start, mergeline: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS[:2], "params.adapter=a,b", "hydra.sweep.dir=fused")
    with monkeypatch.context() as patch:
        patch.setenv("SLOW_DISK", "0.1")
        sweep = start(*words)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(finished(here)) < 4:
            time.sleep(0.01)
        during = list(rows(here / "fused").values())
        sweep.kill()
        sweep.communicate(timeout=60)
    while time.monotonic() < deadline and list((here / "fused").glob("*/.model.lock")):
        time.sleep(0.01)
    assert {row.status for row in during} == {"running"}
    assert all(row.progress.startswith("one pass over ./base") for row in during)
    assert {row.status for row in rows(here / "fused").values()} == {"waiting"}
    left = finished(here)
    assert 4 <= len(left) < 2 * FILES
    before = {file: file.stat().st_ino for file in left}

    done = mergeline(*words)

    assert done.returncode == 0, done.stderr
    found = [file.stat().st_ino for file in (here / "fused").glob("*/model/*.safetensors")]
    assert len(found) == 2 * FILES
    assert set(before.values()) <= set(found), "finished files are not written again"
    assert not hidden(here / "fused")
    apart = mergeline(*words[:3], "hydra.sweep.dir=apart", "--no-fuse")
    assert apart.returncode == 0
    alone = rows(here / "apart")
    for name, row in rows(here / "fused").items():
        assert row.folder == alone[name].folder, "no job had begun"
        assert model(here / "fused", row) == model(here / "apart", alone[name])


def plan_of(*words: str) -> SweepPlan:
    return prepare(Asked(Request(Path("m.yaml"), (*words, "hydra.sweep.dir=fused"))))


def test_which_jobs_go_together(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    shutil.copytree("base", "other")
    (one, two) = passes_of(plan_of("params.adapter=a,b", "load_base.model=base,other").to_do)
    assert (one.base, two.base) == ("base", "other")
    assert [len(one.saves), len(two.saves)] == [2, 2]
    assert not passes_of(plan_of("params.adapter=a").to_do), "one job is no pass"

    Path("m.yaml").write_text(RECIPE + "  - generate: {prompts: [Hi], max_new_tokens: 1}\n")
    (one,) = passes_of(plan_of("params.adapter=a,b", "generate.max_new_tokens=1,2").to_do)
    assert len(one.saves) == 2, "the same model is written ahead once"

    jobs = plan_of("params.adapter=a,b").to_do
    assert Means().passes(jobs)
    assert not Means(fuse=False).passes(jobs)
    assert not Means(LAUNCHERS["slurm"]).passes(jobs), "its machines may be others"


def test_what_the_recipe_itself_makes_is_not_written_ahead(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    saved = 'save: {id: again, path: "${run.dir}/again"}'
    again = 'load_base: {id: back, model: "${steps.save.path}"}'
    Path("m.yaml").write_text(f"{RECIPE}  - {again}\n  - {saved}\n")
    (one,) = passes_of(plan_of("params.adapter=a,b").to_do)
    assert list(one.saves.values()) == [("save",), ("save",)]


def test_a_pass_that_goes_wrong_says_why_and_leaves_the_jobs_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    jobs = plan_of("params.adapter=a,b").to_do
    (one,) = passes_of(jobs)
    (here / "m.yaml").unlink()
    folder = here / "fused"
    folder.mkdir()
    orders = Orders(folder)
    orders.begin()
    why = write_pass(one, jobs, folder, orders)
    assert why is not None
    assert "m.yaml" in why


def finished(here: Path) -> list[Path]:
    """The files that journals tell of."""
    journals = (here / "fused").glob(f"*/.model.partial-*/{JOURNAL}")
    lines = [(one.parent, line) for one in journals for line in one.read_text().split("\n")[1:-1]]
    return [folder / json.loads(line)["name"] for folder, line in lines]
