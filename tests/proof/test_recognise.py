"""Folders without a receipt: what they were merged into is seen from their layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pipeline.proof.findings import Findings
from pipeline.receipt.record import FILE_NAME
from tests.fixtures import verified
from tests.fixtures.models import build_adapter, build_base
from tests.fixtures.session import Session

NO_RECEIPT = f"the hashes of the files: the folder has no {FILE_NAME}"
LAYERS = [f"model.layers.0.self_attn.{name}_proj.weight" for name in "kv"]
"""The smallest that are quantized."""
NF4 = {"quantization": "nf4", "double_quant": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return build_adapter(base.parent / "adapter", base, config)


def merged(run: Path, base: Path, adapter: Path, **load: Any) -> Path:
    """A folder saved in the dtype in which the base was loaded."""
    session = Session(run)
    session.do("load_base", model=str(base), **load)
    session.do("attach_adapter", path=str(adapter))
    if "quantization" in load:
        session.do("dequantize")
    session.do("merge")
    session.do("save", path=str(run / "merged"), dtype=load.get("dtype", "keep"))
    return run / "merged"


def verify(folder: Path, base: Path, *adapters: Path) -> Findings:
    """What is found by base and adapters alone."""
    (folder / FILE_NAME).unlink(missing_ok=True)
    return verified.verify(folder, *adapters, base=base)


def said(found: Findings) -> list[str]:
    return [text for text in found.checked if text.startswith("how it was merged")]


@pytest.mark.parametrize(
    ("load", "into"),
    [
        ({}, "the weights as they are saved"),
        (NF4, "what nf4 makes of the weights"),
        (
            {"quantization": "nf4", "double_quant": True},
            "what nf4 with double quantization makes of the weights",
        ),
        ({"quantization": "fp4", "double_quant": False}, "what fp4 makes of the weights"),
        ({"quantization": "int8"}, "what int8 makes of the weights"),
        ({"dtype": "float32"}, "the weights as they are saved in float32"),
        ({**NF4, "dtype": "float32"}, "what nf4 makes of the weights in float32"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_an_adapter_was_merged_into_is_seen_from_the_layers(
    base: Path, adapter: Path, tmp_path: Path, load: dict[str, Any], into: str
) -> None:
    found = verify(merged(tmp_path, base, adapter, **load), base, adapter)

    assert found.faults == []
    assert said(found) == [f"how it was merged, by {LAYERS[0]} and {LAYERS[1]}: into {into}"]
    assert found.skipped == [NO_RECEIPT]
    assert "14 merged modules on random inputs" in found.checked[-1]


def test_a_merge_by_plain_calls_into_a_dequantized_base_holds(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=four).dequantize()
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)

    found = verify(tmp_path, base, adapter)

    assert [fault for fault in found.faults if "weight" in fault.where] == []
    assert said(found)[0].endswith("into what nf4 makes of the weights")


def test_an_architecture_that_torch_merges_is_seen_through_too(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", "gpt2")
    config = LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=True
    )
    adapter = build_adapter(tmp_path / "adapter", base, config)
    folder = merged(tmp_path / "run", base, adapter, **NF4)

    found = verify(folder, base, adapter)

    assert found.faults == []
    assert said(found)[0].endswith("into what nf4 makes of the weights")


def test_a_base_that_is_saved_in_4_bits_needs_no_guess(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    packed = tmp_path / "packed"
    AutoModelForCausalLM.from_pretrained(base, quantization_config=four).save_pretrained(packed)
    AutoTokenizer.from_pretrained(base).save_pretrained(packed)
    session = Session(tmp_path / "run")
    session.do("load_base", model=str(packed))
    session.do("attach_adapter", path=str(adapter))
    session.do("dequantize")
    session.do("merge")
    session.do("save", path=str(tmp_path / "merged"))

    found = verify(tmp_path / "merged", packed, adapter)

    assert found.faults == []
    assert said(found)[0].endswith("into the dequantized weights")


def test_a_broken_layer_does_not_hide_how_it_was_merged(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = merged(tmp_path, base, adapter, **NF4)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[LAYERS[0]].neg_()
    save_file(tensors, file, {"format": "pt"})

    found = verify(folder, base, adapter)

    assert [fault.where for fault in found.faults] == [f"{file.name}: {LAYERS[0]}"]
    assert said(found)[0].endswith("into what nf4 makes of the weights")


def test_a_merge_that_is_like_none_says_what_it_was_compared_with(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = merged(tmp_path, base, adapter)
    file = folder / "model.safetensors"
    tensors = {key: -tensor for key, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})

    found = verify(folder, base, adapter)

    assert len(found.faults) == len(tensors)
    assert said(found) == []
    assert "far from a merge into the weights as they are saved, or" in found.skipped[-1]
    assert "what nf4 with double quantization makes of the weights" in found.skipped[-1]
