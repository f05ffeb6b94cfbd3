"""The step on real models. The rule of its recommendation is in tests/proof/test_recommend.py."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from pipeline import estimate
from pipeline.errors import MergeError, Refused
from pipeline.manifest import StepRecord
from pipeline.plan import make_plan
from pipeline.proof.variants import variants
from pipeline.recipe import load
from tests.fixtures.models import TEXT, build_adapter
from tests.fixtures.session import Session, merge

Base = Callable[..., Path]
Write = Callable[[str, str], str]
LARGER = {"hidden_size": 128, "intermediate_size": 256}
"""Than the other models of the tests, so that most of the weights are in layers that are quantized."""
EXAMPLES = [{"text": TEXT[n : n + 40]} for n in range(0, 160, 8)]


@pytest.fixture
def base(base_model: Base) -> Path:
    return base_model("llama", **LARGER)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    config = LoraConfig(r=8, target_modules="all-linear")
    return build_adapter(tmp_path / "lora", base, config, scale=0.05)


@pytest.fixture
def data(write: Write) -> str:
    return write("data.jsonl", "".join(json.dumps(example) + "\n" for example in EXAMPLES))


def compare(
    session: Session, base: Path, adapter: Path, load: str = "nf4", **how: Any
) -> StepRecord:
    session.do("load_base", model=str(base), quantization=load)
    session.do("attach_adapter", path=str(adapter))
    return session.do("compare_merges", **how)


def figures(record: StepRecord, name: str) -> dict[str, float]:
    """Of all rows, by the row."""
    end = f".{name}"
    return {
        key.removesuffix(end): value
        for key, value in record.metrics.items()
        if key.endswith(end) and isinstance(value, float)
    }


def test_each_merge_is_near_to_the_model_that_it_was_made_for(
    session: Session, base: Path, adapter: Path, data: str
) -> None:
    record = compare(session, base, adapter, data=data)
    for name, sound in (("error", 0.03), ("mean_module_error", 0.004)):
        found = figures(record, name)
        for near, far in (("quantized", "original"), ("original.wished", "quantized.wished")):
            assert 0 < found[near] < sound < 2 * sound < found[far]
        assert found["requantized"] > 2 * sound
        assert found["requantized.wished"] > found["quantized.wished"]
    top1, kept = figures(record, "top1"), figures(record, "delta_kept")
    assert top1["quantized"] > top1["requantized"]
    assert abs(kept["quantized"] - 1) < 0.01
    sizes = record.metrics
    assert sizes["requantized.bytes"] < 0.6 * sizes["original.bytes"]  # type: ignore[operator]
    losses = figures(record, "loss")
    assert set(losses) == {
        *("trained", "wished", "quantized", "quantized_float32"),
        *("original", "original_float32", "requantized"),
    }
    assert record.metrics["recommended"] == "quantized"
    positions = int(record.metrics["positions"])  # type: ignore[arg-type]
    assert record.notes[-2].startswith("recommended: quantized (dequantize: {from: quantized}")
    assert "requantized takes" in record.notes[-1]
    assert record.notes[0] == f"on {positions:,} positions, {positions - 20} tokens, 20 examples"
    assert [file.path for file in session.run.take_used()] == [data]


def test_the_figures_are_those_of_evaluate_and_verify(
    session: Session, base: Path, adapter: Path, data: str, tmp_path: Path
) -> None:
    found = compare(session, base, adapter, limit=15, data=data).metrics
    attached = session.do("evaluate", limit=15, data=data).metrics
    on_texts = compare(session, base, adapter).metrics
    merged = merge(session, base, adapter, quantization="nf4")
    verified = session.do("verify", proof="both").metrics
    session.do("load_base", model=str(merged))
    alone = session.do("evaluate", limit=15, data=data).metrics
    assert found["trained.loss"] == attached["loss"]
    assert found["quantized.loss"] == alone["loss"]
    assert found["quantized.loss"] != attached["loss"]
    assert on_texts["quantized.kl"] == verified["kl"]
    assert on_texts["quantized.error"] == verified["error"]
    assert on_texts["quantized.delta_kept"] == verified["delta_kept"]
    assert on_texts["quantized.bytes"] == (merged / "model.safetensors").stat().st_size


def test_without_data_built_in_texts_are_compared(
    session: Session, base: Path, adapter: Path
) -> None:
    record = compare(session, base, adapter, proof="model")
    assert {*figures(record, "loss"), *figures(record, "mean_module_error")} == set()
    assert figures(record, "kl")["quantized"] < figures(record, "kl")["original"]
    assert "there is no data to tell which is better" in record.notes[-2]


def test_models_that_do_not_fit_in_memory_are_compared_module_by_module(
    session: Session,
    base: Path,
    adapter: Path,
    data: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = compare(session, base, adapter)
    monkeypatch.setattr("pipeline.memory.free_bytes", lambda device: 1_000_000)

    def nothing_live(*_: object, **__: object) -> None:
        raise AssertionError("a whole model was made")

    monkeypatch.setattr("pipeline.realise.live.realise", nothing_live)
    record = compare(session, base, adapter, data=data)
    assert (
        "not compared as a whole, and not on the data: it takes about 0.7 GB" in record.warnings[0]
    )
    modules = figures(record, "mean_module_error")
    assert modules == figures(whole, "mean_module_error")
    assert not figures(record, "kl")
    about, exact = record.metrics["requantized.bytes"], whole.metrics["requantized.bytes"]
    assert about == pytest.approx(exact, rel=0.1)
    assert record.metrics["recommended"] == "quantized"


def test_one_model_is_in_memory_at_a_time(
    session: Session, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def models() -> list[Any]:  # structures on the meta device hold no weights
        found = [o for o in gc.get_objects() if type(o) is LlamaForCausalLM]
        return [model for model in found if model.device.type != "meta"]

    before = {id(o): o for o in models()}  # kept, so that none of their ids is given to another
    others: list[int] = []
    bar = session.run.console.bar

    def watching(label: str, total: float, unit: str = "") -> Any:
        if label in ("building the model", "comparing modules", "merging"):
            others.append(len({id(o) for o in models()} - before.keys()))
        return bar(label, total, unit)

    monkeypatch.setattr(session.run.console, "bar", watching)
    compare(session, base, adapter)
    assert len(others) > 20
    assert not any(others)


def test_the_plan_counts_the_largest_of_the_models(
    session: Session, base: Path, adapter: Path, tmp_path: Path
) -> None:
    steps = [
        {"load_base": {"model": str(base), "quantization": "nf4"}},
        {"attach_adapter": {"path": str(adapter)}},
        "compare_merges",
    ]
    (tmp_path / "compare.yaml").write_text(json.dumps({"steps": steps}), encoding="utf-8")
    plan = make_plan(load(str(tmp_path / "compare.yaml")))
    attached = plan.states[-1].blueprint
    assert attached is not None
    largest = max(estimate.live_bytes(variant.blueprint) for variant in variants(attached))
    assert largest > 2 * estimate.live_bytes(attached)
    assert plan.peak_memory_bytes == largest + estimate.LIBRARIES


def test_a_base_that_is_not_quantized_leaves_the_rounding_to_choose(
    session: Session, base: Path, adapter: Path
) -> None:
    record = compare(session, base, adapter, load="none")
    assert record.notes[0].startswith("the base is not quantized")
    assert set(figures(record, "kl")) == {"original", "original_float32"}
    assert record.metrics["recommended"] == "original"


def test_a_base_that_is_saved_quantized_has_no_other_weights(
    session: Session, base: Path, adapter: Path
) -> None:
    packed = session.run.dir / "packed"
    session.do("load_base", model=str(base), quantization="nf4")
    session.do("save", path=str(packed))
    record = compare(session, packed, adapter, load="none")
    assert set(figures(record, "kl")) == {"quantized", "quantized_float32", "requantized"}
    assert record.notes[0].startswith("the base is saved quantized")


def test_other_architectures_are_compared_too(
    session: Session, base_model: Base, tmp_path: Path, write: Write
) -> None:
    base = base_model("t5")
    config = LoraConfig(r=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    adapter = build_adapter(tmp_path / "t5", base, config, auto_class="AutoModelForSeq2SeqLM")
    lines = [{"input": a["text"], "target": b["text"]} for a, b in pairwise(EXAMPLES)]
    data = write("pairs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    session.do("load_base", model=str(base), task="seq2seq_lm", quantization="nf4")
    session.do("attach_adapter", path=str(adapter))
    found = figures(session.do("compare_merges", data=data), "kl")
    assert 0 < found["quantized"] < found["original"]


def test_nothing_is_left_but_figures_also_of_a_run_that_was_killed(
    session: Session, base: Path, adapter: Path
) -> None:
    left = session.run.dir / ".compare_merges" / "merged"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half of it")
    compare(session, base, adapter, proof="modules")
    assert list(session.run.dir.iterdir()) == []
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name] = torch.full_like(tensors[name], 1e38)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MergeError, match="NaN or infinite"):
        compare(session, base, adapter, proof="modules")
    assert list(session.run.dir.iterdir()) == []


def test_the_state_after_it_is_that_before_it(session: Session, base: Path, adapter: Path) -> None:
    session.do("load_base", model=str(base), quantization="nf4")
    session.do("attach_adapter", path=str(adapter))
    before = session.state
    session.do("compare_merges", proof="modules")
    assert session.state == replace(before, step_id="compare_merges")


@pytest.mark.parametrize("steps", [["dequantize"], ["dequantize", "merge"]])
def test_it_stands_before_the_merge(
    session: Session, base: Path, adapter: Path, steps: list[str]
) -> None:
    session.do("load_base", model=str(base), quantization="nf4")
    session.do("attach_adapter", path=str(adapter))
    for name in steps:
        session.do(name)
    with pytest.raises(Refused, match="as they were trained") as refused:
        session.describe("compare_merges")
    assert (
        refused.value.fix == "put this step after `attach_adapter`, before `dequantize` and `merge`"
    )


def test_what_cannot_be_compared_is_refused_before_anything_runs(
    session: Session, base: Path, adapter: Path, data: str, write: Write, tmp_path: Path
) -> None:
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(adapter))
    questions = write("questions.jsonl", '{"prompt": "How many legs?", "answer": "Eight"}\n')
    for settings, said in (
        ({"data": questions}, "questions with answers have none"),
        ({"data": str(tmp_path / "nowhere.txt")}, "no such data file"),
        ({"data": data, "proof": "modules"}, "random inputs, not on data"),
    ):
        with pytest.raises(Refused, match=said) as refused:
            session.describe("compare_merges", **settings)
        assert refused.value.key == "data"


def test_an_adapter_that_cannot_be_merged_is_refused(
    session: Session, base: Path, tmp_path: Path
) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    prompt = build_adapter(tmp_path / "prompt", base, config)
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(prompt))
    with pytest.raises(Refused, match="is PROMPT_TUNING and cannot be merged"):
        session.describe("compare_merges")
