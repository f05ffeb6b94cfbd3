"""bitsandbytes repacks a 4-bit base at its first forward pass on CPUs with AVX512-BF16; an adapter that
is attached afterwards then answers with the wrong layout, and nothing says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pipeline.blueprint import Quantization
from pipeline.proof.compare import compare
from pipeline.proof.logits import answers, tokenized
from pipeline.proof.tolerance import default_tolerance
from tests.fixtures.models import build_adapter


@pytest.mark.skipif(not has_avx512bf16(), reason="only CPUs with AVX512-BF16 repack 4-bit weights")
def test_the_tolerance_catches_an_adapter_on_a_base_that_had_run(
    base_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = base_model("llama", initializer_range=0.1)
    adapter = build_adapter(tmp_path / "lora", base, LoraConfig(r=8, target_modules="all-linear"))
    ids = tokenized(AutoTokenizer.from_pretrained(base), ["What is the capital of France?"])

    def with_adapter(*, after_a_pass: bool) -> list[torch.Tensor]:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
        model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config).eval()
        if after_a_pass:
            list(answers(model, "causal_lm", ids))
        model = PeftModel.from_pretrained(model, adapter).eval()
        return list(answers(model, "causal_lm", ids))

    found = compare(with_adapter(after_a_pass=False), with_adapter(after_a_pass=True))
    bounds = default_tolerance(["bfloat16"], Quantization("nf4"), layers=2)
    assert bounds.broken_by(found, kept=None)
