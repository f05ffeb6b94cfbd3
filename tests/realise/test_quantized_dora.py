"""DoRA on a quantized base on the CPU answers as on the same base dequantized, at every pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from pipeline.blueprint import Adapter, Base, Blueprint, Quantization
from pipeline.proof.compare import compare
from pipeline.proof.logits import answers
from pipeline.realise.live import realise
from tests.fixtures.models import build_adapter

TEXTS = [list(range(5, 25)), list(range(40, 60))]


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_dora_on_a_quantized_base_is_right_at_every_pass(
    base_model: Callable[..., Path], tmp_path: Path, kind: Any
) -> None:
    base = base_model("llama", initializer_range=0.1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], use_dora=True)
    adapter = Adapter(str(build_adapter(tmp_path / "dora", base, config)))
    trained = Blueprint(Base(str(base), quantization=Quantization(kind)), adapters=(adapter,))
    plain = realise(replace(trained, dequantize=True), device="cpu").model
    expected = list(answers(plain, "causal_lm", TEXTS))

    live = realise(trained, device="cpu").model
    first, later = (list(answers(live, "causal_lm", TEXTS)) for _ in range(2))

    assert compare(expected, first).error < 0.03
    assert compare(first, later).error == 0
