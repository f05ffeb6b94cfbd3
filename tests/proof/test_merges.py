"""Right merges pass the default tolerance, and wrong ones do not."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pipeline.proof.compare import Difference, compare
from pipeline.proof.logits import answers
from pipeline.proof.reference import listen
from pipeline.proof.tolerance import default_tolerance
from pipeline.realise.load import load_base_model
from tests.fixtures.models import build_adapter
from tests.fixtures.session import Session, merge

Base = Callable[..., Path]
PROMPTS = ["What is the capital of France?", "Load the base, attach the adapter, merge"]
LIVELY = {"initializer_range": 0.1}
"""Layers that matter: the small numbers of a new model leave nearly all to the embeddings."""


@dataclass(frozen=True)
class Verdict:
    found: Difference
    kept: float | None
    broken: list[str]


def judge(session: Session) -> Verdict:
    """What `verify` finds about the folder saved last, without a process of its own."""
    folder = session.state.last_folder()
    assert folder is not None
    scratch = Path(tempfile.mkdtemp(dir=session.run.dir))
    trained, request = listen(session.run, folder, PROMPTS, scratch)
    saved = load_base_model(request.base, "cpu").model
    bounds = default_tolerance(
        (trained.dtype, str(saved.dtype).removeprefix("torch.")),  # type: ignore[arg-type]
        trained.quantization,
        trained.layers,
    )
    logits = answers(saved, request.base.task, trained.token_ids)
    found = compare(trained.logits, logits, near=bounds.max_error or 0)
    kept = None
    if trained.effect < math.inf:
        kept = 1 - found.error / trained.effect
    return Verdict(found, kept, bounds.broken_by(found, kept))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "run")


@pytest.fixture
def adapter(base_model: Base, tmp_path: Path) -> Path:
    config = LoraConfig(r=8, target_modules="all-linear")
    return build_adapter(tmp_path / "lora", base_model("llama", **LIVELY), config)


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
@pytest.mark.parametrize("dtype", ["keep", "float32", "float16"])
def test_a_right_merge_passes(
    session: Session, base_model: Base, adapter: Path, quantization: str, dtype: str
) -> None:
    merge(session, base_model("llama", **LIVELY), adapter, dtype, quantization=quantization)
    verdict = judge(session)
    assert verdict.broken == []
    assert verdict.kept is not None
    assert verdict.kept > 0.8


def test_a_merge_in_float32_is_the_same_function_to_the_last_bits(
    session: Session, base_model: Base, adapter: Path
) -> None:
    merge(session, base_model("llama", dtype="float32", **LIVELY), adapter)
    assert judge(session).found.error < 1e-5


def test_a_base_in_float32_may_be_saved_in_bfloat16(
    session: Session, base_model: Base, adapter: Path
) -> None:
    merge(session, base_model("llama", dtype="float32", **LIVELY), adapter, "bfloat16")
    verdict = judge(session)
    assert verdict.broken == []
    assert verdict.found.error > 1e-3


@pytest.mark.parametrize(
    ("architecture", "task", "auto_class", "targets"),
    [
        ("qwen2", "causal_lm", "AutoModelForCausalLM", ["q_proj", "down_proj"]),
        ("gpt2", "causal_lm", "AutoModelForCausalLM", ["c_attn", "c_fc"]),
        ("t5", "seq2seq_lm", "AutoModelForSeq2SeqLM", ["q", "v", "wo"]),
        ("bert", "feature_extraction", "AutoModel", ["query", "value"]),
        ("whisper", "speech_seq2seq", "AutoModelForSpeechSeq2Seq", ["q_proj", "v_proj"]),
        ("llava", "image_text_to_text", "AutoModelForImageTextToText", ["q_proj", "v_proj"]),
    ],
)
def test_models_of_other_shapes_pass_too(
    session: Session,
    base_model: Base,
    tmp_path: Path,
    architecture: str,
    task: str,
    auto_class: str,
    targets: list[str],
) -> None:
    base = base_model(architecture)
    config = LoraConfig(r=8, target_modules=targets, fan_in_fan_out=architecture == "gpt2")
    adapter = build_adapter(tmp_path / "lora", base, config, auto_class=auto_class, scale=0.15)
    merge(session, base, adapter, quantization="nf4", task=task)
    verdict = judge(session)
    assert verdict.broken == []
    assert verdict.kept is not None
    assert verdict.kept > 0.8


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
def test_a_classifier_passes_with_the_head_that_the_adapter_brought(
    session: Session, base_model: Base, tmp_path: Path, task: str
) -> None:
    base = base_model("bert", dtype="float32")
    kind, auto = {
        "sequence_classification": ("SEQ_CLS", "AutoModelForSequenceClassification"),
        "token_classification": ("TOKEN_CLS", "AutoModelForTokenClassification"),
    }[task]
    config = LoraConfig(r=8, target_modules=["query", "value"], task_type=kind)
    adapter = build_adapter(tmp_path / "lora", base, config, auto_class=auto, scale=0.15)
    merge(session, base, adapter, task=task)
    verdict = judge(session)
    assert verdict.broken == []
    rows = len(PROMPTS) if task == "sequence_classification" else 20
    assert verdict.found.positions >= rows
    assert verdict.found.error < 1e-5


def test_a_folder_without_adapters_is_held_against_the_base(
    session: Session, base_model: Base
) -> None:
    session.do("load_base", model=str(base_model("llama")), quantization="nf4")
    session.do("dequantize")
    session.do("save", path=str(session.run.dir / "plain"))
    verdict = judge(session)
    assert verdict.found.max_diff == 0.0
    assert verdict.kept is None


Tensors = dict[str, torch.Tensor]
SQUARE = "model.layers.1.self_attn.o_proj.weight"


def _adapter_left_out(merged: Tensors, plain: Tensors) -> None:
    merged.update(plain)


def _merged_twice(merged: Tensors, plain: Tensors) -> None:
    for name, tensor in plain.items():
        merged[name] = (2 * merged[name].float() - tensor.float()).to(tensor.dtype)


def _one_module_left_out(merged: Tensors, plain: Tensors) -> None:
    merged["model.layers.1.mlp.down_proj.weight"] = plain["model.layers.1.mlp.down_proj.weight"]


def _delta_transposed(merged: Tensors, plain: Tensors) -> None:
    delta = merged[SQUARE].float() - plain[SQUARE].float()
    merged[SQUARE] = (plain[SQUARE].float() + delta.T).to(merged[SQUARE].dtype).contiguous()


def _half_the_scale(merged: Tensors, plain: Tensors) -> None:
    for name, tensor in plain.items():
        merged[name] = ((merged[name].float() + tensor.float()) / 2).to(tensor.dtype)


def _not_a_number(merged: Tensors, plain: Tensors) -> None:
    merged["model.norm.weight"][3] = float("nan")


@pytest.mark.parametrize(
    "mistake",
    [
        _adapter_left_out,
        _merged_twice,
        _one_module_left_out,
        _delta_transposed,
        _half_the_scale,
        _not_a_number,
    ],
)
def test_a_wrong_merge_fails(
    session: Session,
    base_model: Base,
    adapter: Path,
    mistake: Callable[[Tensors, Tensors], None],
) -> None:
    base = base_model("llama", **LIVELY)
    file = merge(session, base, adapter) / "model.safetensors"
    assert judge(session).broken == []
    merged = load_file(file)
    mistake(merged, load_file(base / "model.safetensors"))
    save_file(merged, file, metadata={"format": "pt"})
    assert judge(session).broken


def test_a_merge_into_the_weights_before_quantization_is_another_model(
    session: Session, base_model: Base, adapter: Path, tmp_path: Path
) -> None:
    base = base_model("llama", **LIVELY)
    file = merge(session, base, adapter, quantization="nf4") / "model.safetensors"
    assert judge(session).broken == []
    original = merge(Session(tmp_path / "original"), base, adapter) / "model.safetensors"
    save_file(load_file(original), file, metadata={"format": "pt"})
    verdict = judge(session)
    assert verdict.broken
    assert verdict.found.error > 0.05
