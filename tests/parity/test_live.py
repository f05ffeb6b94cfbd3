"""The live realiser writes, bit for bit, what plain transformers, PEFT and bitsandbytes calls write.

The reference is written out in `plain_merge`; nothing in it is ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    TrainableTokensConfig,
)
from transformers import BitsAndBytesConfig

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Quantization, State
from pipeline.realise.live import realise
from pipeline.realise.write import save_model
from pipeline.steps.attach_adapter import attach_adapter
from pipeline.steps.dequantize import dequantize
from pipeline.steps.load_base import load_base
from pipeline.steps.merge import merge
from tests.fixtures.models import build_adapter
from tests.parity.plain import assert_same_bits, config_of, plain_adapters, tensors_of

ATTENTION = ["q_proj", "v_proj"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

NF4 = Quantization("nf4", double_quant=True, compute_dtype="bfloat16")

CONFIGS: dict[Quantization | None, dict[str, Any]] = {
    None: {},
    NF4: {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    },
    Quantization("nf4"): {
        "quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    },
    Quantization("fp4", double_quant=True): {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True
        )
    },
    Quantization("nf4", storage="bfloat16"): {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=torch.bfloat16
        )
    },
    Quantization("int8"): {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
}


@dataclass(frozen=True)
class Case:
    """One base, and adapters that are merged into it together."""

    adapters: tuple[Callable[[], PeftConfig], ...]
    architecture: str = "llama"
    base: dict[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None
    weights: tuple[float, ...] = ()
    task: str = "causal_lm"
    auto_class: str = "AutoModelForCausalLM"
    vocabulary: int | None = None
    shard: str = "5GB"


def lora(**changes: Any) -> Callable[[], PeftConfig]:
    """A fresh config each time, because PEFT changes those that it is given."""
    return lambda: LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ATTENTION,
            "task_type": "CAUSAL_LM",
            **changes,
        }
    )


CASES: dict[str, Case] = {
    "bfloat16": Case((lora(target_modules=LINEAR),)),
    "float16": Case((lora(),), base={"dtype": "float16"}),
    "float32": Case((lora(),), base={"dtype": "float32"}),
    "nf4": Case((lora(target_modules=LINEAR),), quantization=NF4),
    "nf4 without double quantization": Case((lora(),), quantization=Quantization("nf4")),
    "nf4 of a float32 base": Case((lora(),), base={"dtype": "float32"}, quantization=NF4),
    "nf4 in bfloat16 storage": Case(
        (lora(),), quantization=Quantization("nf4", storage="bfloat16")
    ),
    "fp4": Case((lora(),), quantization=Quantization("fp4", double_quant=True)),
    "int8": Case((lora(target_modules=LINEAR),), quantization=Quantization("int8")),
    "int8 of a float16 base": Case(
        (lora(),), base={"dtype": "float16"}, quantization=Quantization("int8")
    ),
    "two adapters with weights": Case(
        (lora(), lora(r=2, target_modules=LINEAR)), weights=(0.7, -0.4)
    ),
    "one weighted rsLoRA": Case((lora(use_rslora=True),), weights=(0.5,)),
    "rsLoRA": Case((lora(use_rslora=True),)),
    "DoRA": Case((lora(use_dora=True),)),
    "DoRA on nf4": Case((lora(use_dora=True),), quantization=NF4),
    "rank and alpha patterns": Case(
        (lora(rank_pattern={"layers.1.*q_proj": 2}, alpha_pattern={"v_proj": 3}),)
    ),
    "some layers": Case((lora(layers_to_transform=[1]),)),
    "all-linear": Case((lora(target_modules="all-linear"),)),
    "biases of the base": Case((lora(bias="all"),), base={"attention_bias": True}),
    "bias of LoRA": Case((lora(lora_bias=True),), base={"attention_bias": True}),
    "embeddings": Case((lora(target_modules=["embed_tokens", "q_proj"]),)),
    "modules to save": Case((lora(modules_to_save=["lm_head"]),), quantization=NF4),
    "modules to save, norm": Case((lora(modules_to_save=["norm"]),)),
    "tied base, attention only": Case((lora(),), architecture="qwen2"),
    "tied base on nf4": Case(
        (lora(target_modules=LINEAR),), architecture="qwen2", quantization=NF4
    ),
    "tied base, both ends saved": Case(
        (lora(modules_to_save=["embed_tokens", "lm_head"]),), architecture="qwen2"
    ),
    "tied base, head saved": Case((lora(modules_to_save=["lm_head"]),), architecture="qwen2"),
    "tied base, resized": Case((lora(),), architecture="qwen2", vocabulary=328),
    "resized": Case((lora(),), vocabulary=328),
    "resized and saved": Case(
        (lora(modules_to_save=["embed_tokens", "lm_head"]),), vocabulary=328, quantization=NF4
    ),
    "resized, embeddings": Case(
        (lora(target_modules=["embed_tokens", "lm_head"]),), vocabulary=328
    ),
    "resized, trainable tokens": Case((lora(trainable_token_indices=[321, 322]),), vocabulary=328),
    "trainable tokens": Case((lora(trainable_token_indices=[3, 7]),)),
    "trainable tokens on a tied base": Case(
        (lora(trainable_token_indices=[3, 7]),), architecture="qwen2"
    ),
    "only trainable tokens": Case(
        (lambda: TrainableTokensConfig(token_indices=[3, 7], target_modules=["embed_tokens"]),)
    ),
    "LoHa": Case((lambda: LoHaConfig(r=4, alpha=8, target_modules=ATTENTION),)),
    "weighted LoHa": Case(
        (lambda: LoHaConfig(r=4, alpha=8, target_modules=ATTENTION),), weights=(0.3,)
    ),
    "IA3": Case(
        (
            lambda: IA3Config(
                target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
            ),
        ),
    ),
    "GPT-2": Case((lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),), "gpt2"),
    "T5": Case(
        (lora(target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM"),),
        architecture="t5",
        task="seq2seq_lm",
        auto_class="AutoModelForSeq2SeqLM",
    ),
    "T5 in nf4": Case(
        (lora(target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"),),
        architecture="t5",
        task="seq2seq_lm",
        auto_class="AutoModelForSeq2SeqLM",
        quantization=NF4,
    ),
    "BERT with a classification head": Case(
        (lora(target_modules=["query", "value"], task_type="SEQ_CLS"),),
        architecture="bert",
        base={"dtype": "float32"},
        task="sequence_classification",
        auto_class="AutoModelForSequenceClassification",
    ),
    "Llama with a classification head": Case(
        (lora(task_type="SEQ_CLS"),),
        task="sequence_classification",
        auto_class="AutoModelForSequenceClassification",
    ),
    "Whisper": Case(
        (lora(task_type=None),),
        architecture="whisper",
        task="speech_seq2seq",
        auto_class="AutoModelForSpeechSeq2Seq",
    ),
    "LLaVA": Case(
        (lora(task_type=None),),
        architecture="llava",
        task="image_text_to_text",
        auto_class="AutoModelForImageTextToText",
    ),
    "LLaVA in nf4": Case(
        (lora(task_type=None),),
        architecture="llava",
        task="image_text_to_text",
        auto_class="AutoModelForImageTextToText",
        quantization=NF4,
    ),
    "several shards": Case((lora(),), shard="100KB"),
}


def plain_merge(case: Case, base: Path, adapters: list[Path], output: Path) -> None:
    """What a careful person writes by hand."""
    torch.manual_seed(0)
    model = getattr(transformers, case.auto_class).from_pretrained(
        base, dtype="auto", **CONFIGS[case.quantization]
    )
    if case.quantization is not None:
        model = model.dequantize()
    if case.vocabulary is not None:
        model.resize_token_embeddings(case.vocabulary, mean_resizing=False)
    model = plain_adapters(model, adapters, case.weights).merge_and_unload()
    model.save_pretrained(output, max_shard_size=case.shard)


def blueprint_of(case: Case, base: Path, adapters: list[Path]) -> Blueprint:
    weights = case.weights or (1.0,) * len(adapters)
    described = tuple(
        Adapter(str(path), name=f"adapter_{number}", weight=weight)
        for number, (path, weight) in enumerate(zip(adapters, weights, strict=True))
    )
    return Blueprint(
        Base(str(base), task=case.task, quantization=case.quantization),
        dequantize=case.quantization is not None,
        folds=(Fold(described),),
    )


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
