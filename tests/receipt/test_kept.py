"""A folder that is there already is kept when hashes prove it the same; else neither used nor replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import LoraConfig

from pipeline import manifest
from pipeline.errors import RecipeError
from pipeline.manifest import Manifest
from pipeline.plan import make_plan
from pipeline.receipt.record import FILE_NAME
from pipeline.recipe import load
from pipeline.report.plain import QuietConsole
from pipeline.run import run
from tests.fixtures.models import build_adapter, build_base

RECIPE = """
steps:
  - load_base: {model: ./base}
  - attach_adapter: {for_each: [./french, ./pirate]}
  - merge
  - save: {path: "out/${branch.name}"}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    base = build_base(folder / "base")
    for seed, name in enumerate(("french", "pirate")):
        config = LoraConfig(r=2, target_modules=["q_proj"])
        build_adapter(folder / name, base, config, seed=seed)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def go(*overrides: str) -> Manifest:
    loaded = load("r.yaml", [f"hydra.run.dir={Path('run').absolute()}", *overrides])
    return run(loaded, make_plan(loaded), QuietConsole())


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {file.name: file.stat() for file in folder.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def test_branches_that_were_published_before_a_kill_are_kept(here: Path) -> None:
    first = go()
    before = stamps(here / "out" / "french")
    shutil.rmtree(here / "out" / "pirate")  # the run was stopped before this one

    record = go()

    assert record.status == "done", record.error
    assert stamps(here / "out" / "french") == before, "not a byte of it is touched"
    notes = {step.id: step.notes for step in record.steps}
    assert notes["save.french"] == [
        "out/french is kept: it was made of the same, and has the hashes of its receipt"
    ]
    assert (here / "out" / "pirate" / FILE_NAME).is_file()
    hashes = {file.path: file.blake3 for file in first.outputs if not file.path.endswith(FILE_NAME)}
    again = {file.path: file.blake3 for file in record.outputs if not file.path.endswith(FILE_NAME)}
    assert again == hashes
    assert record.metrics["save.french.bytes"] == first.metrics["save.french.bytes"]


def test_what_is_kept_is_verified_again(here: Path) -> None:
    (here / "r.yaml").write_text(f"{RECIPE}  - verify\n")
    assert go().status == "done"
    before = stamps(here / "out" / "french")["model.safetensors"]

    record = go()

    assert record.status == "done", record.error
    assert record.metrics["verify.french.top1"] == 1
    assert stamps(here / "out" / "french")["model.safetensors"] == before


def damage(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def add(folder: Path) -> None:
    (folder / "mine.txt").write_text("mine")


def lose(folder: Path) -> None:
    (folder / "config.json").unlink()


def retrain(folder: Path) -> None:
    """Other values, as many bytes."""
    damage_adapter = folder.parents[1] / folder.name / "adapter_model.safetensors"
    data = bytearray(damage_adapter.read_bytes())
    data[-1] ^= 1
    damage_adapter.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (damage, "model.safetensors has changed"),
        (add, "mine.txt is new"),
        (lose, "config.json is gone"),
        (retrain, "it was made of other inputs, or in another way"),
    ],
)
def test_what_hashes_do_not_prove_is_neither_trusted_nor_replaced(
    here: Path, change: Callable[[Path], None], why: str
) -> None:
    go()
    change(here / "out" / "pirate")
    before = stamps(here / "out" / "pirate")

    record = go()

    assert record.status == "failed"
    errors = {step.id: step.error.what for step in record.steps if step.error}
    if change is lose:  # it is no model any more, which is seen without a hash
        assert list(errors) == ["save.pirate"]
    else:
        assert errors == {"save.pirate": f"exists already, and is not what is to be written: {why}"}
    assert {step.id: step.status for step in record.steps}["save.french"] == "done"
    assert stamps(here / "out" / "pirate") == before


def test_the_seed_and_the_engine_are_part_of_how_it_was_made(here: Path) -> None:
    go()
    record = go("seed=7")
    errors = [step.error.what for step in record.steps if step.error]
    assert len(errors) == 2
    assert all("in another way" in what for what in errors)


@pytest.mark.parametrize("override", ["save.dtype=float16", "merge.accumulate=float32"])
def test_another_model_is_refused_before_anything_runs(here: Path, override: str) -> None:
    go()
    with pytest.raises(RecipeError, match="exists already"):
        go(override)


def test_other_versions_are_other_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go()
    versions = manifest.versions()
    monkeypatch.setattr(manifest, "versions", lambda: {**versions, "peft": "0"})
    with pytest.raises(RecipeError, match="exists already"):
        go()


def test_a_receipt_of_another_number_of_adapters_is_another_model(here: Path) -> None:
    go()
    file = here / "out" / "pirate" / FILE_NAME
    data = json.loads(file.read_text())
    data["inputs"] *= 2
    file.write_text(json.dumps(data))
    record = go()
    assert [step.id for step in record.steps if step.error] == ["save.pirate"]


def test_a_single_save_to_a_fixed_path_is_kept_too(here: Path) -> None:
    (here / "r.yaml").write_text(
        RECIPE.replace("${branch.name}", "one").replace(
            "for_each: [./french, ./pirate]", "path: ./french"
        )
    )
    go()
    before = stamps(here / "out" / "one")
    planned = make_plan(load("r.yaml", []))
    assert planned.warnings == ("out/one exists already, and is kept if hashes prove it the same",)
    assert go().status == "done"
    assert stamps(here / "out" / "one") == before
    assert go("save.overwrite=true").status == "done"
    assert stamps(here / "out" / "one") != before, "asked for, it is written anew"
