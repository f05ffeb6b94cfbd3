"""DoRA over quantized layers on a CPU.

DoRA reads the weight of the layer below at every pass, and PEFT 0.21 reads it amiss where bitsandbytes 0.50
keeps its book in the layer. On CPUs with AVX512-BF16, 4-bit weights are repacked at the first pass, and read
in the layout that they had: logits off by a tenth, and no warning. In 8 bits PEFT makes the weight anew
without its scales, and the second pass crashes.
"""

from __future__ import annotations

from typing import Any


def keep_as_dora_reads(model: Any) -> None:
    """Let quantized layers below DoRA stay as they are while they run. Changes `model` in place."""
    for layer in model.modules():
        if not getattr(layer, "lora_magnitude_vector", None):
            continue
        below = layer.get_base_layer()
        if below.weight.device.type != "cpu":
            continue
        if hasattr(below, "support_avx512bf16_for_cpu"):
            below.support_avx512bf16_for_cpu = False
        if hasattr(below, "init_8bit_state") and below.weight.CB is not None:
            below.init_8bit_state()  # into the layer's own state, for good
            below.init_8bit_state = lambda: None
