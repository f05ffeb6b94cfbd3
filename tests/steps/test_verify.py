"""The step as a whole. Which merges are right is judged in tests/proof/test_merges.py, in one process:
each clean process costs some seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pipeline.errors import Refused, VerificationError
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
    assert 0 < record.metrics["error"] < 0.04  # type: ignore[operator]
    assert record.metrics["kept"] > 0.9  # type: ignore[operator]
    assert record.notes[0].startswith("merged against the trained model")
    assert [path.name for path in session.run.dir.iterdir()] == ["merged"]


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
