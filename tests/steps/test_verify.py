"""The step as a whole. Which merges are right is judged in tests/proof/test_merges.py, in one process:
each clean process costs some seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pipeline.checkpoint.holding import Holding
from pipeline.errors import Refused, VerificationError
from pipeline.manifest import Manifest
from pipeline.plan import make_plan
from pipeline.receipt.record import read_receipt
from pipeline.recipe import load
from pipeline.report.plain import PlainConsole
from pipeline.run import run
from tests.fixtures.models import build_adapter, build_tokenizer
from tests.fixtures.session import Session, merge

Base = Callable[..., Path]
PROMPTS = ["What is the capital of France?", "Load the base, attach the adapter, merge"]


@pytest.fixture
def merged(session: Session, base_model: Base, tmp_path: Path) -> Path:
    """A right merge into an NF4 base."""
    base = base_model("llama")
    config = LoraConfig(r=8, target_modules="all-linear")
    adapter = build_adapter(tmp_path / "lora", base, config, scale=0.15)
    return merge(session, base, adapter, quantization="nf4")


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_right_merge_passes(session: Session, merged: Path) -> None:
    record = session.do("verify", prompts=PROMPTS)
    tokens = session.run.live().tokenizer(PROMPTS)["input_ids"]
    assert record.metrics["positions"] == sum(map(len, tokens))
    assert record.metrics["top1"] == 1.0
    assert record.metrics["same_text"] == 16
    assert 0 < record.metrics["mean_diff"] < record.metrics["max_diff"]  # type: ignore[operator]
    assert 0 < record.metrics["error"] < 0.04  # type: ignore[operator]
    assert record.metrics["kept"] > 0.9  # type: ignore[operator]
    assert record.bounds["error"] > record.metrics["error"]  # type: ignore[operator]
    assert {"kl", "top1", "kept", "module_error", "delta_kept"} < set(record.bounds)
    spread = record.histograms["logit_differences"]
    classes = session.run.live().model.config.vocab_size
    assert sum(spread.counts) == record.metrics["positions"] * classes  # type: ignore[operator]
    assert spread.most == -spread.least == record.metrics["max_diff"]
    assert record.notes[0].startswith("merged against the trained model")
    assert [path.name for path in session.run.dir.iterdir()] == ["merged"]


def test_prompts_may_be_lines_of_a_file(session: Session, merged: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"{PROMPTS[0]}\n\n{PROMPTS[1]}\n")
    from_file = session.do("verify", proof="model", prompts=str(file))
    assert session.run.take_used()[0].path == str(file)
    listed = session.do("verify", proof="model", prompts=PROMPTS)
    assert from_file.metrics == listed.metrics
    with pytest.raises(Refused, match="no text file"):
        session.describe("verify", prompts=str(tmp_path / "nowhere.txt"))


def test_a_merge_without_its_adapter_fails_and_says_where_it_is_worst(
    session: Session, base_model: Base, merged: Path
) -> None:
    plain = load_file(base_model("llama") / "model.safetensors")
    spoil(merged, lambda tensors: tensors.update(plain))
    with pytest.raises(VerificationError, match="share of the adapters' effect") as caught:
        session.do("verify", prompts=PROMPTS[:1])
    assert caught.value.where == str(merged)
    assert f"of the prompt {PROMPTS[0]!r}" in caught.value.what
    assert session.run.record.metrics["kept"] < 0.3  # type: ignore[operator]
    assert session.run.record.metrics["same_text"] < 16  # type: ignore[operator]


def test_a_tensor_that_is_missing_is_named(session: Session, merged: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    spoil(merged, lambda tensors: tensors.pop(name))
    with pytest.raises(VerificationError, match=name):
        session.do("verify", prompts=PROMPTS)


def test_another_tokenizer_fails(session: Session, merged: Path) -> None:
    build_tokenizer(merged, extra=("France",))
    with pytest.raises(VerificationError, match="tokenizer reads the prompts otherwise"):
        session.do("verify", prompts=PROMPTS)


def test_another_vocabulary_fails(session: Session, merged: Path) -> None:
    config = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps({**config, "vocab_size": 319}))
    names = ("lm_head.weight", "model.embed_tokens.weight")
    spoil(merged, lambda tensors: tensors.update({n: tensors[n][:319].clone() for n in names}))
    with pytest.raises(VerificationError, match=r"319\) values .*320\)"):
        session.do("verify", prompts=PROMPTS)


def test_the_folder_that_is_named_is_looked_at_with_the_bounds_that_are_given(
    session: Session, merged: Path
) -> None:
    second = session.run.dir / "second"
    session.do("save", path=str(second))
    (second / "model.safetensors").unlink()
    with pytest.raises(VerificationError, match="largest difference") as caught:
        session.do("verify", prompts=PROMPTS, folder=str(merged), max_diff=0.0, max_error=None)
    assert caught.value.where == str(merged)
    assert "relative error" not in caught.value.what


def test_without_a_tokenizer_random_tokens_are_compared(session: Session, tmp_path: Path) -> None:
    from tests.fixtures.models import build_base

    base = build_base(tmp_path / "base")
    for file in base.glob("tokenizer*"):
        file.unlink()
    session.do("load_base", model=str(base))
    session.do("save", path=str(session.run.dir / "copy"))
    record = session.do("verify")
    assert "random tokens" in record.notes[0]
    assert record.metrics["positions"] == 4 * 32
    assert record.metrics["max_diff"] == 0.0
    assert record.metrics["kept"] is None


def test_without_a_saved_model_it_is_refused(session: Session, base_model: Base) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused, match="no step before this one saves"):
        session.describe("verify")
    with pytest.raises(Refused, match="holds no model"):
        session.describe("verify", folder=str(session.run.dir))


def test_by_modules_alone_no_whole_model_is_loaded(session: Session, merged: Path) -> None:
    record = session.do("verify", proof="modules")
    assert "error" not in record.metrics
    assert record.metrics["modules"] == 14
    assert 0.001 < record.metrics["module_error"] < 0.003  # type: ignore[operator]
    assert record.metrics["delta_kept"] == pytest.approx(1, abs=0.01)
    assert record.modules["model.layers.0.mlp.up_proj"].keys() == {
        "error",
        "base_norm",
        "delta_norm",
        "delta_kept",
    }
    assert "14 modules on random inputs" in record.notes[0]
    assert record.notes[-1].startswith("checked 7 tensors against the base's own bytes, 14")
    assert read_receipt(merged).proofs[0].figures["delta_kept"] == record.metrics["delta_kept"]


def test_the_whole_model_is_left_out_where_it_does_not_fit(
    session: Session, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.memory.free_bytes", lambda device: 1_000_000)
    record = session.do("verify")
    assert (
        "is not compared as a whole: it takes about 0.7 GB, and 0.0 GB are free" in record.notes[0]
    )
    assert record.metrics["modules"] == 14
    assert "error" not in record.metrics


def test_a_tensor_that_no_adapter_claims_is_held_against_the_bases_bytes(
    session: Session, merged: Path
) -> None:
    spoil(merged, lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    with pytest.raises(VerificationError, match=r"model\.norm\.weight is not the base's"):
        session.do("verify", proof="modules")


def test_a_folder_that_fails_gets_no_name_and_one_that_passes_gets_it(
    session: Session, base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "lora", base, LoraConfig(r=8, target_modules=["q_proj"]))
    target = session.run.dir / "merged"
    session.run.holding = Holding({target})
    merge(session, base, adapter)
    assert session.run.record.outputs == []
    with pytest.raises(VerificationError, match="`publish: always`") as caught:
        session.do("verify", proof="modules", max_module_error=0.0)
    assert caught.value.where == str(target)
    assert not target.exists()
    record = session.do("verify", proof="modules")
    assert (target / "model.safetensors").is_file()
    assert {Path(file.path).name for file in record.outputs} >= {
        "model.safetensors",
        "config.json",
        "mergeline.json",
    }
    assert [proof.passed for proof in read_receipt(target).proofs] == [True]
    assert list(session.run.dir.iterdir()) == [target]


def test_the_plan_knows_which_folders_wait(
    session: Session, base_model: Base, merged: Path
) -> None:
    assert session.describe("verify").judged == {merged}
    assert session.describe("verify", publish="always").judged == frozenset()
    assert session.describe("verify", folder=str(base_model("llama"))).judged == frozenset()


def test_modules_of_what_was_never_merged_are_refused(session: Session, base_model: Base) -> None:
    session.do("load_base", model=str(base_model("llama")))
    session.do("save", path=str(session.run.dir / "copy"))
    with pytest.raises(Refused, match="no adapter was merged"):
        session.describe("verify", proof="modules")


def test_a_run_that_verify_refuses_publishes_nothing_and_loses_no_work(
    base_model: Base, tmp_path: Path
) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "lora", base, LoraConfig(r=8, target_modules=["q_proj"]))
    recipe = tmp_path / "merge.yaml"
    recipe.write_text(
        f"""
steps:
  - load_base: {{model: {base}}}
  - attach_adapter: {{path: {adapter}}}
  - merge
  - save: {{path: "{tmp_path}/out/merged"}}
  - verify: {{proof: modules}}
"""
    )

    def go(*overrides: str) -> Manifest:
        loaded = load(str(recipe), [f"hydra.run.dir={tmp_path}/run", *overrides])
        return run(loaded, make_plan(loaded), PlainConsole(StringIO()))

    refused = go("verify.max_module_error=0.0")
    assert refused.status == "failed"
    assert refused.outputs == []
    (left,) = (tmp_path / "out").iterdir()
    assert left.name.startswith(".merged.partial-")

    passed = go()
    assert passed.status == "done"
    assert "1 of 1 files of weights were finished before this run" in passed.steps[3].notes
    assert passed.steps[3].outputs == []
    assert len(passed.steps[4].outputs) == len(list((tmp_path / "out" / "merged").iterdir()))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["merged"]
