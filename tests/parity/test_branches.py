"""A recipe with `for_each`: every branch has, bit for bit, what its recipe alone would write."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pipeline.checkpoint.journal import FILE_NAME as JOURNAL
from pipeline.errors import RecipeError
from pipeline.manifest import Manifest
from pipeline.plan import Plan, make_plan
from pipeline.realise.stream import together
from pipeline.realise.stream.files import may_be_open
from pipeline.recipe import load
from pipeline.run import run
from tests.fixtures.models import build_adapter, build_base
from tests.fixtures.session import Silent

ADAPTERS = 16


class Told(Silent):
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.told.append(f"{name} {arguments}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    base = build_base(folder / "base")
    for n in range(ADAPTERS):
        config = LoraConfig(
            r=4 + n % 3, target_modules=["q_proj", "up_proj"] if n % 2 else ["v_proj"]
        )
        build_adapter(folder / "adapters" / f"step-{n}", base, config, seed=n)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(attach: str, save: str, *more: str, load_base: str = "") -> str:
    before = "  - dequantize\n" if load_base else ""
    after = "".join(f"  - {line}\n" for line in more)
    return (
        f"steps:\n  - load_base: {{model: ./base{load_base}}}\n  - attach_adapter: {attach}\n"
        f"{before}  - merge\n  - save: {save}\n{after}"
    )


def go(text: str, folder: str, *overrides: str) -> tuple[Plan, Manifest, list[str]]:
    Path("r.yaml").write_text(text)
    loaded = load("r.yaml", [f"hydra.run.dir={Path(folder).absolute()}", *overrides])
    plan = make_plan(loaded)
    told = Told()
    return plan, run(loaded, plan, told), told.told  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.iterdir() if file.suffix == ".safetensors"]
    texts = [folder / "config.json", *folder.glob("*.index.json")]
    return {file.name: file.read_bytes() for file in [*files, *texts]}


BRANCHES = "{for_each: 'adapters/*'}"
SAVE = "{path: '${run.dir}/${branch.name}', max_shard_size: 40KB}"


def alone(name: str, **load_base: str) -> dict[str, bytes]:
    how = "".join(f", {key}: {value}" for key, value in load_base.items())
    attach = f"{{path: ./adapters/{name}}}"
    save = "{max_shard_size: 40KB}"
    _, record, _ = go(recipe(attach, save, load_base=how), f"alone-{name}")
    assert record.status == "done"
    return weights(Path(f"alone-{name}/model"))


def test_sixteen_adapters_in_one_pass_are_sixteen_runs(here: Path) -> None:
    plan, record, told = go(recipe(BRANCHES, SAVE), "run")
    assert record.status == "done", record.error
    names = [f"step-{n}" for n in range(ADAPTERS)]
    assert plan.passes == (tuple(f"save.{name}" for name in names),)
    assert any("16 models are written in one pass" in text for text in told)
    for name in names:
        assert weights(here / "run" / name) == alone(name)
    saved = [step for step in record.steps if step.step == "save"]
    assert [step.metrics["tensors"] for step in saved] == [21] * ADAPTERS
    assert {step.metrics["modules_changed"] for step in saved} == {2, 4}
    assert all(file.blake3 for file in [*record.inputs, *record.outputs])


def test_through_four_bits_all_branches_share_the_quantized_base(here: Path) -> None:
    attach = "{for_each: [adapters/step-1, adapters/step-2]}"
    _, record, _ = go(recipe(attach, SAVE, load_base=", quantization: nf4"), "run")
    assert record.status == "done", record.error
    for name in ("step-1", "step-2"):
        assert weights(here / "run" / name) == alone(name, quantization="nf4")


def test_values_of_any_step_make_branches(here: Path) -> None:
    text = recipe(
        "{for_each: {weak: {path: ./adapters/step-1, weight: 0.5}, strong: ./adapters/step-1}}",
        "{path: '${run.dir}/${branch.name}', for_each: [{dtype: float16}, {dtype: keep}]}",
    )
    plan, record, _ = go(text, "run")
    assert record.status == "done", record.error
    assert sorted(path.name for path in (here / "run").iterdir() if path.is_dir()) == [
        "strong-float16",
        "strong-keep",
        "weak-float16",
        "weak-keep",
    ]
    assert len(plan.passes[0]) == 4
    attach, save = "{path: ./adapters/step-1, weight: 0.5}", "{dtype: float16}"
    go(recipe(attach, save), "one")
    assert weights(here / "run" / "weak-float16") == weights(here / "one" / "model")


def damage(here: Path) -> dict[str, str]:
    """Damaged adapters, and what is to be said of each."""
    folder = here / "adapters"
    nan = load_file(folder / "step-3" / "adapter_model.safetensors")
    key = next(key for key in nan if "lora_B" in key)
    nan[key][0, 0] = float("nan")
    save_file(nan, folder / "step-3" / "adapter_model.safetensors")
    (folder / "step-5" / "adapter_model.safetensors").write_bytes(b"not a file of tensors")
    wide = load_file(folder / "step-7" / "adapter_model.safetensors")
    key = next(key for key in wide if "lora_A" in key)
    wide[key] = wide[key].repeat(1, 2)
    save_file(wide, folder / "step-7" / "adapter_model.safetensors")
    config = json.loads((folder / "step-9" / "adapter_config.json").read_text())
    (folder / "step-9" / "adapter_config.json").write_text(json.dumps(config)[:50])
    return {
        "step-3": "NaN",
        "step-5": "safetensors",
        "step-7": "does not fit the base",
        "step-9": "JSON",
    }


def test_a_bad_adapter_fails_its_branch_and_no_other(here: Path) -> None:
    bad = damage(here)
    plan, record, told = go(recipe(BRANCHES, SAVE), "run")
    assert record.status == "failed"
    assert sorted(plan.refused) == [f"attach_adapter.step-{n}" for n in (5, 7, 9)]
    errors = {step.id.partition(".")[2]: step.error for step in record.steps if step.error}
    assert errors.keys() == bad.keys()
    for name, said in bad.items():
        error = errors[name]
        assert error is not None
        assert said in error.what, (name, error)
        assert not (here / "run" / name).exists()
        assert any("step_failed" in text and name in text for text in told)
    for n in set(range(ADAPTERS)) - {3, 5, 7, 9}:
        assert weights(here / "run" / f"step-{n}") == alone(f"step-{n}")
    after = {step.id: step.status for step in record.steps if "step-7" in step.id}
    assert after == {
        "attach_adapter.step-7": "failed",
        "merge.step-7": "skipped",
        "save.step-7": "skipped",
    }
    assert not list((here / "run").glob(".*.partial-*"))


def test_what_is_wrong_in_all_branches_is_refused_once(here: Path) -> None:
    text = recipe(BRANCHES, SAVE).replace("./base}", "./base, quantization: nf4}")
    with pytest.raises(RecipeError) as caught:
        go(text, "run")
    assert [problem.key for problem in caught.value.problems] == ["merge"]
    assert not (here / "run").exists()


def test_branches_that_write_to_one_place_are_refused(here: Path) -> None:
    with pytest.raises(RecipeError, match=r"is written by save\.step-0 too"):
        go(recipe(BRANCHES, "{}"), "run")


def test_what_peft_makes_is_written_one_branch_after_the_other(here: Path) -> None:
    config = LoraConfig(r=4, target_modules=["v_proj"], use_dora=True)
    build_adapter(here / "adapters" / "dora", here / "base", config)
    attach = "{for_each: [adapters/step-0, adapters/dora, adapters/step-1]}"
    plan, record, _ = go(recipe(attach, SAVE), "run")
    assert record.status == "done", record.error
    assert plan.passes == (("save.step-0", "save.step-1"),)
    for name in ("step-0", "dora"):
        assert weights(here / "run" / name) == alone(name)


def test_each_branch_is_verified_before_it_has_its_name(here: Path) -> None:
    attach = "{for_each: [adapters/step-0, adapters/step-1]}"
    plan, record, _ = go(recipe(attach, SAVE, "verify"), "run")
    assert record.status == "done", record.error
    assert len(plan.passes) == 1
    figures = [f"verify.{name}.top1" for name in ("step-0", "step-1")]
    assert all(record.metrics[name] == 1 for name in figures)
    assert (here / "run" / "step-1" / "config.json").is_file()


def test_after_a_kill_each_branch_goes_on_with_its_own_files(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = together.write_outputs

    def cut_short(outputs: Any, **options: Any) -> None:
        for number, one in enumerate(outputs):
            one.shards = one.shards[: 2 + number]
        real(outputs, **options)
        raise KeyboardInterrupt

    attach = "{for_each: [adapters/step-0, adapters/step-1, adapters/step-2]}"
    with monkeypatch.context() as patch:
        patch.setattr(together, "write_outputs", cut_short)
        _, record, _ = go(recipe(attach, SAVE), "runs/1")
    assert record.status == "interrupted"
    left = sorted((here / "runs" / "1").glob(".*.partial-*"))
    assert [len((folder / JOURNAL).read_text().splitlines()) for folder in left] == [3, 4, 5]
    _, record, _ = go(recipe(attach, SAVE), "runs/2")
    assert record.status == "done", record.error
    notes = {step.id: step.notes for step in record.steps if step.step == "save"}
    for number in range(3):
        name = f"step-{number}"
        said = f"{number + 2} of 7 files of weights were finished before this run"
        assert said in notes[f"save.{name}"], notes
        assert weights(here / "runs" / "2" / name) == alone(name)
    assert not list((here / "runs" / "1").glob(".*.partial-*"))


def test_where_few_files_may_be_open_there_are_more_passes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "may_be_open", lambda wanted: wanted // 2 + 40)
    _, record, told = go(recipe(BRANCHES, SAVE), "run")
    assert record.status == "done", record.error
    assert any("(pass 2 of 2)" in text for text in told)
    for name in ("step-0", "step-15"):
        assert weights(here / "run" / name) == alone(name)


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 100, before[1]))
        assert may_be_open(10) == before[0] - 100
        assert may_be_open(before[0] - 50) == before[0] - 50
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[0] - 50, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_full_disk_fails_what_was_being_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(outputs: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(together, "write_outputs", full)
    attach = "{for_each: [adapters/step-0, adapters/step-1]}"
    _, record, _ = go(recipe(attach, SAVE), "run")
    assert record.status == "failed"
    errors = [step.error.what for step in record.steps if step.error]
    assert len(errors) == 2
    assert all("disk" in what for what in errors)
