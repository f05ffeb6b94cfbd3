"""What the live realiser is held against: bases and adapters, and the plain calls that merge them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    TrainableTokensConfig,
)
from transformers import BitsAndBytesConfig

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Quantization
from tests.parity.plain import plain_adapters

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
