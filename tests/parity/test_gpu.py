"""On a GPU, too, the live realiser gives the bits of plain calls. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Quantization
from pipeline.realise.live import realise
from tests.fixtures.models import build_adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

NF4 = Quantization("nf4", double_quant=True, compute_dtype="bfloat16")


@pytest.mark.parametrize("quantization", [None, NF4], ids=["bfloat16", "nf4"])
def test_a_merge_on_a_gpu_has_the_bits_of_plain_calls(
    quantization: Quantization | None, base_model: Any, tmp_path: Path
) -> None:
    base = base_model("llama")
    adapter = build_adapter(
        tmp_path / "adapter", base, LoraConfig(target_modules=["q_proj", "down_proj"])
    )
    ours = realise(
        Blueprint(
            Base(str(base), quantization=quantization),
            dequantize=quantization is not None,
            folds=(Fold((Adapter(str(adapter)),)),),
        ),
        device="cuda:0",
    ).model

    options: dict[str, Any] = {"dtype": "auto", "device_map": {"": "cuda:0"}}
    if quantization is not None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    plain = AutoModelForCausalLM.from_pretrained(base, **options)
    plain = plain.dequantize() if quantization is not None else plain
    plain = PeftModel.from_pretrained(plain, adapter).merge_and_unload()

    expected = dict(plain.named_parameters())
    assert {p.device.type for p in ours.parameters()} == {"cuda"}
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, expected[name]), name
