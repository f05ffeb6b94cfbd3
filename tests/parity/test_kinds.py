"""Every kind of adapter that PEFT can merge is attached and merged as PEFT does it, in bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from pipeline.blueprint import Adapter, Base, Blueprint, Fold
from pipeline.errors import MergeError
from pipeline.realise.live import realise
from tests.fixtures.models import build_adapter
from tests.parity.plain import assert_same_bits

TOKENS = torch.arange(3, 30)[None]


def kind(name: str, **options: Any) -> Callable[[], PeftConfig]:
    wanted = {"target_modules": ["q_proj", "v_proj"], **options}
    return lambda: getattr(peft, f"{name}Config")(**wanted)


KINDS: dict[str, Callable[[], PeftConfig]] = {
    "AdaLoRA": kind("AdaLora", init_r=4, target_r=2, total_step=10),
    "BOFT": kind("BOFT", boft_block_size=4),
    "DeLoRA": kind("Delora"),
    "FourierFT": kind("FourierFT", n_frequency=20),
    "GraLoRA": kind("Gralora"),
    "HRA": kind("HRA", r=4),
    "LN tuning": kind("LNTuning", target_modules=["input_layernorm"]),
    "LoHa": kind("LoHa", r=4),
    "LoKr": kind("LoKr", r=4, alpha=4),
    "LoRA from OLoRA": kind("Lora", r=4, init_lora_weights="olora"),
    "LoRA from PiSSA": kind("Lora", r=4, init_lora_weights="pissa"),
    "MiSS": kind("Miss", r=4),
    "OFT": kind("OFT", oft_block_size=8, r=0),
    "RandLoRA": kind("RandLora", r=4),
    "RoAd": kind("Road", group_size=8),
    "SHiRA": kind("Shira", r=4),
    "VB-LoRA": kind("VBLoRA", r=4, num_vectors=16, vector_length=64, topk=2),
    "VeRA": kind("Vera", r=4),
    "VeRA without its projections": kind("Vera", r=4, save_projection=False),
    "WaveFT": kind("WaveFT", n_frequency=20),
}

# What PEFT says of these kinds: BOFT has a CUDA kernel, which is slower without; LN tuning was written for
# other norms; SHiRA uses sparse tensors; VeRA can make its projections again from a seed.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{start}:UserWarning")
    for start in (
        "Failed to load the CUDA extension",
        "Unsupported layer type",
        "Sparse invariant checks",
        "Setting boft_n_butterfly_factor",
        "Specified to not save vera_A",
        "Specified to not load vera_A",
    )
]


@pytest.mark.parametrize("name", KINDS)
def test_kind_is_attached_and_merged_as_peft_does_it(
    name: str, base_model: Any, tmp_path: Path
) -> None:
    base = base_model("llama", num_key_value_heads=4)
    adapter = build_adapter(tmp_path / "adapter", base, KINDS[name]())

    def plain() -> Any:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        return PeftModel.from_pretrained(model, adapter).eval()

    described = (Adapter(str(adapter)),)
    attached = realise(Blueprint(Base(str(base)), adapters=described), device="cpu").model
    merged = realise(Blueprint(Base(str(base)), folds=(Fold(described),)), device="cpu")
    with torch.inference_mode():
        assert torch.equal(attached(TOKENS).logits, plain()(TOKENS).logits)
    assert_same_bits(merged.model.state_dict(), plain().merge_and_unload().state_dict())
    assert merged.facts["modules_changed"] == merged.facts["modules_merged"] > 0


@pytest.mark.parametrize("name", ["PromptTuning", "PrefixTuning"])
def test_prompt_can_be_attached_and_not_merged(name: str, base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama", num_key_value_heads=4)
    config = getattr(peft, f"{name}Config")(num_virtual_tokens=4, task_type="CAUSAL_LM")
    adapter = build_adapter(tmp_path / "adapter", base, config)
    described = (Adapter(str(adapter)),)
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter
    )
    attached = realise(Blueprint(Base(str(base)), adapters=described), device="cpu").model
    with torch.inference_mode():
        assert torch.equal(attached(TOKENS).logits, plain.eval()(TOKENS).logits)
    with pytest.raises(MergeError, match="cannot be merged"):
        realise(Blueprint(Base(str(base)), folds=(Fold(described),)), device="cpu")
