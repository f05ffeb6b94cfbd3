"""The live realiser writes, bit for bit, what plain transformers, PEFT and bitsandbytes calls write.

The reference is written out in `live_cases.plain_merge`; nothing in it is ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Quantization, State
from pipeline.realise.live import realise
from pipeline.realise.write import save_model
from pipeline.steps.attach_adapter import attach_adapter
from pipeline.steps.dequantize import dequantize
from pipeline.steps.load_base import load_base
from pipeline.steps.merge import merge
from tests.fixtures.models import build_adapter
from tests.parity.live_cases import (
    CASES,
    CONFIGS,
    LINEAR,
    NF4,
    blueprint_of,
    lora,
    plain_merge,
)
from tests.parity.plain import assert_same_bits, config_of, tensors_of


@pytest.mark.parametrize("name", CASES)
def test_merged_folder_equals_plain_peft(name: str, base_model: Any, tmp_path: Path) -> None:
    case = CASES[name]
    base = base_model(case.architecture, **case.base)
    adapters = [
        build_adapter(
            tmp_path / f"adapter{number}",
            base,
            config(),
            auto_class=case.auto_class,
            vocabulary=case.vocabulary,
            seed=number + 1,
        )
        for number, config in enumerate(case.adapters)
    ]
    plain_merge(case, base, adapters, tmp_path / "plain")
    live = realise(blueprint_of(case, base, adapters), device="cpu")
    save_model(live.model, tmp_path / "ours", max_shard_size=case.shard)

    assert_same_bits(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "plain"))
    assert config_of(tmp_path / "ours") == config_of(tmp_path / "plain")
    ours, plain = (
        sorted(p.name for p in (tmp_path / side).iterdir()) for side in ("ours", "plain")
    )
    assert ours == plain
    assert live.facts["modules_changed"] == live.facts["modules_merged"] > 0


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_base_that_is_saved_quantized(kind: str, base_model: Any, tmp_path: Path) -> None:
    original = base_model("llama")
    quantization = NF4 if kind == "nf4" else Quantization("int8")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        original, dtype="auto", **CONFIGS[quantization]
    )
    model.save_pretrained(tmp_path / "base")
    adapter = build_adapter(tmp_path / "adapter", original, lora()())

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").dequantize()
    model = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    saved = Quantization(quantization.kind, saved=True)
    blueprint = Blueprint(
        Base(str(tmp_path / "base"), quantization=saved),
        dequantize=True,
        folds=(Fold((Adapter(str(adapter)),)),),
    )
    save_model(realise(blueprint, device="cpu").model, tmp_path / "ours", max_shard_size="5GB")

    # transformers cannot save such a model (its loader's steps have no inverse), so compare with memory.
    assert_same_bits(tensors_of(tmp_path / "ours"), model.state_dict())
    assert config_of(tmp_path / "ours") == config_of(original)


# PEFT says so before it fails, in the plain calls.
@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit linear:UserWarning")
def test_attach_before_or_after_dequantize_is_one_model(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "adapter", base, lora()())
    load = load_base.settings(model=str(base), quantization="nf4", compute_dtype="bfloat16")
    attach = attach_adapter.settings(path=str(adapter))
    state = load_base.describe(load, State())
    after = attach_adapter.describe(attach, dequantize.describe(dequantize.settings(), state))
    before = dequantize.describe(dequantize.settings(), attach_adapter.describe(attach, state))
    assert before.blueprint == after.blueprint

    # With plain calls, the first order ends in an error: dequantize() leaves PEFT's 4-bit layers behind.
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto", **CONFIGS[NF4])
    model = PeftModel.from_pretrained(model, adapter)
    model.dequantize()
    with pytest.raises(AttributeError, match="quant_state"):
        model.merge_and_unload()

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto", **CONFIGS[NF4])
    model = PeftModel.from_pretrained(model.dequantize(), adapter).merge_and_unload()
    merged = merge.describe(merge.settings(), before).blueprint
    assert merged is not None
    assert_same_bits(realise(merged, device="cpu").model.state_dict(), model.state_dict())


def test_two_merges_in_a_row(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    first = build_adapter(tmp_path / "first", base, lora()(), seed=1)
    second = build_adapter(tmp_path / "second", base, lora(target_modules=LINEAR)(), seed=2)

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model = PeftModel.from_pretrained(model, first).merge_and_unload()
    model = PeftModel.from_pretrained(model, second).merge_and_unload()
    blueprint = Blueprint(
        Base(str(base)),
        folds=(Fold((Adapter(str(first)),)), Fold((Adapter(str(second), name="second"),))),
    )
    live = realise(blueprint, device="cpu")

    assert_same_bits(live.model.state_dict(), model.state_dict())
    assert live.facts == {"modules_merged": 4 + 14, "modules_changed": 4 + 14}


def test_adapter_as_a_pickle(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "adapter", base, lora()())
    blueprint = Blueprint(Base(str(base)), folds=(Fold((Adapter(str(adapter)),)),))
    safe = realise(blueprint, device="cpu").model.state_dict()
    older = tmp_path / "older"
    older.mkdir()
    (older / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    torch.save(tensors_of(adapter), older / "adapter_model.bin")

    blueprint = Blueprint(Base(str(base)), folds=(Fold((Adapter(str(older)),)),))
    assert_same_bits(realise(blueprint, device="cpu").model.state_dict(), safe)


def test_base_as_a_pickle_when_allowed(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    older = tmp_path / "older"
    older.mkdir()
    (older / "config.json").write_text(json.dumps(config_of(base)))
    torch.save(tensors_of(base), older / "pytorch_model.bin")

    live = realise(Blueprint(Base(str(older), allow_pickle=True)), device="cpu")
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    assert_same_bits(live.model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dequantize_to_another_dtype(dtype: Any, base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "adapter", base, lora()())
    wanted = getattr(torch, dtype)

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto", **CONFIGS[NF4])
    model = model.dequantize(dtype=wanted).to(wanted)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.save_pretrained(tmp_path / "plain")
    blueprint = Blueprint(
        Base(str(base), quantization=NF4),
        dequantize=True,
        dequantize_dtype=dtype,
        folds=(Fold((Adapter(str(adapter)),)),),
    )
    save_model(realise(blueprint, device="cpu").model, tmp_path / "ours", max_shard_size="5GB")

    assert_same_bits(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "plain"))
    assert config_of(tmp_path / "ours") == config_of(tmp_path / "plain")


def test_attached_and_merged_in_float32_are_one_function(base_model: Any, tmp_path: Path) -> None:
    base = base_model("qwen2", dtype="float32")
    adapter = build_adapter(tmp_path / "adapter", base, lora(target_modules=LINEAR)())
    described = (Adapter(str(adapter)),)
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        attached = realise(Blueprint(Base(str(base)), adapters=described), device="cpu").model(
            tokens
        )
        merged = realise(Blueprint(Base(str(base)), folds=(Fold(described),)), device="cpu").model(
            tokens
        )
        plain = PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(base), adapter
        ).eval()(tokens)
    assert torch.equal(attached.logits, plain.logits)
    assert torch.allclose(merged.logits, plain.logits, atol=1e-5)
