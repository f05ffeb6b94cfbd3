"""How large a model is, in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import estimate
from pipeline.blueprint import Base, Blueprint, Quantization
from tests.fixtures.folders import LLAMA, make_base


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        (None, 16),
        (Quantization("int8"), 8),
        (Quantization("nf4"), 4.5),
        (Quantization("nf4", True), 4.13),
    ],
)
def test_memory_of_a_base_follows_its_precision(
    tmp_path: Path, quantization: Quantization | None, bits: float
) -> None:
    shapes: dict[str, Any] = {f"layers.{n}.weight": ("BF16", (512, 512)) for n in range(4)}
    base = Base(str(make_base(tmp_path, shapes=shapes)), quantization=quantization)

    assert estimate.live_bytes(Blueprint(base)) == pytest.approx(
        4 * 512 * 512 * bits / 8, rel=0.001
    )


def test_elements_of_a_4_bit_checkpoint_are_counted_as_they_will_be(tmp_path: Path) -> None:
    config = {**LLAMA, "quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
    shapes: dict[str, Any] = {
        "a.weight": ("U8", (64 * 64 // 2, 1)),
        "a.weight.absmax": ("F32", (64,)),
        "a.weight.quant_map": ("F32", (16,)),
        "a.weight.quant_state.bitsandbytes__nf4": ("U8", (80,)),
        "norm.weight": ("BF16", (64,)),
    }
    base = Base(
        str(make_base(tmp_path, config, shapes)), quantization=Quantization("nf4", saved=True)
    )

    assert estimate.saved_bytes(Blueprint(base, dequantize=True)) == (64 * 64 + 64) * 2
    assert estimate.saved_bytes(Blueprint(base, dequantize=True), "float32") == (64 * 64 + 64) * 4
