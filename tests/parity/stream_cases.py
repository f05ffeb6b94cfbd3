"""What streams are held against: bases and adapters, and the plain calls that merge them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from pipeline.blueprint import (
    DTYPES,
    Accumulate,
    Adapter,
    Base,
    Blueprint,
    Dtype,
    Engine,
    Fold,
    Quantization,
    SavedDtype,
    State,
)
from pipeline.realise import write_model
from pipeline.recipe.model import Recipe
from pipeline.run import RunContext
from tests.fixtures.models import build_adapter, build_tokenizer
from tests.fixtures.session import Silent
from tests.parity.plain import plain_adapters

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 136,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32, "attention_bias": True}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma2": ("Gemma2", {"head_dim": 16}),
    "gemma3": ("Gemma3", {"head_dim": 16}),
    "granite": (
        "Granite",
        {"attention_bias": True, "mlp_bias": True, "embedding_multiplier": 12.0},
    ),
    "olmo2": ("Olmo2", {}),
    "smollm3": ("SmolLM3", {"attention_bias": True, "mlp_bias": True}),
    "phi3": ("Phi3", {}),
}
"""Small models, one or more of each architecture that the direct path knows."""


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 7,
            "target_modules": "all-linear",
            "task_type": "CAUSAL_LM",
            **changes,
        }
    )


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    adapters: tuple[LoraConfig, ...] = field(default_factory=lambda: (lora(),))
    model: str = "llama"
    dtype: str = "bfloat16"
    weights: tuple[float, ...] = ()
    adapter_dtype: str = "float32"
    shard: str = "5GB"
    one_fold_each: bool = False
    quantization: Quantization | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    norms: str | None = None
    """Dtype of the norms in the base's files, where it is another."""
    load: Dtype | None = None
    dequantize: Dtype | None = None
    save: SavedDtype = "keep"
    original: bool = False
    accumulate: Accumulate = "peft"


NF4, FP4 = Quantization("nf4", double_quant=True), Quantization("fp4", double_quant=True)
WHOLE = {"intermediate_size": 192}
"""So that rows are whole blocks of 64, which 4 bits need, as those of real models are."""


def in_4bit(quantization: Quantization = NF4, sizes: dict[str, int] = WHOLE, **how: Any) -> Case:
    return Case(quantization=quantization, sizes=sizes, **how)


SAVED = {
    "nf4": Quantization("nf4", double_quant=True, saved=True),
    "nf4 without double quantization": Quantization("nf4", saved=True),
    "fp4": Quantization("fp4", double_quant=True, saved=True),
    "int8": Quantization("int8", saved=True),
}

CASES: dict[str, Case] = {
    "some layers": Case((lora(target_modules=["q_proj"], layers_to_transform=[1]),)),
    **{f"{name}": Case(model=name) for name in MODELS},
    "float32": Case(dtype="float32"),
    "float16": Case(dtype="float16"),
    "tied in float16": Case(model="qwen2", dtype="float16"),
    "rsLoRA": Case((lora(use_rslora=True, r=6),)),
    "rank 1": Case((lora(r=1),)),
    "rank 128": Case((lora(r=128, lora_alpha=11),)),
    "patterns": Case(
        (
            lora(
                target_modules=["q_proj", "k_proj", "v_proj", "down_proj"],
                rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 9},
                alpha_pattern={"v_proj": 3},
            ),
        )
    ),
    "regular expression": Case((lora(target_modules=r".*\.layers\.1\..*_proj"),)),
    "excluded": Case((lora(exclude_modules=["o_proj"]),)),
    "gaussian start": Case((lora(init_lora_weights="gaussian"),)),
    "adapter in bfloat16": Case(adapter_dtype="bfloat16"),
    "adapter in float16": Case(adapter_dtype="float16", dtype="float32"),
    "a weight": Case(weights=(0.3,)),
    "two adapters with weights": Case(
        (lora(), lora(r=8, target_modules=["q_proj", "up_proj"])), weights=(0.7, -0.4)
    ),
    "two merges in a row": Case((lora(), lora(target_modules=["q_proj"])), one_fold_each=True),
    "many shards": Case(shard="60KB"),
    **{f"{name} through nf4": in_4bit(model=name) for name in MODELS},
    "fp4": in_4bit(FP4),
    "nf4 without double quantization": in_4bit(Quantization("nf4")),
    "fp4 without double quantization": in_4bit(Quantization("fp4")),
    "nf4 in bfloat16 storage": in_4bit(Quantization("nf4", storage="bfloat16")),
    "nf4 of a float32 base": in_4bit(dtype="float32"),
    "nf4 of a float16 base": in_4bit(dtype="float16"),
    "fp4 of a float16 base": in_4bit(Quantization("fp4"), dtype="float16"),
    "nf4, adapter on two layers": in_4bit(adapters=(lora(target_modules=["q_proj", "v_proj"]),)),
    "nf4, two merges in a row": in_4bit(
        adapters=(lora(), lora(target_modules=["q_proj"])), one_fold_each=True, shard="60KB"
    ),
    "nf4, no adapter": in_4bit(adapters=()),
    # Scales so many that torch sums them in several threads.
    "nf4 of large layers": in_4bit(
        sizes={"hidden_size": 1088, "intermediate_size": 2112, "num_hidden_layers": 1}
    ),
    **{f"int8 of a {dtype} base": in_4bit(Quantization("int8"), dtype=dtype) for dtype in DTYPES},
    "int8 with biases": in_4bit(Quantization("int8"), SMALL, model="qwen3"),
    "int8 dequantized to float32": in_4bit(Quantization("int8"), dequantize="float32"),
    **{f"saved as {name}": in_4bit(saved) for name, saved in SAVED.items()},
    **{f"{name} saved as nf4": in_4bit(SAVED["nf4"], model=name) for name in MODELS},
    **{f"{d}, saved as nf4": in_4bit(SAVED["nf4"], dtype=d) for d in ("float32", "float16")},
    **{f"{d}, saved as int8": in_4bit(SAVED["int8"], dtype=d) for d in ("float32", "float16")},
    "saved as nf4, no adapter": in_4bit(SAVED["nf4"], adapters=()),
    "saved as nf4, many shards": in_4bit(SAVED["nf4"], shard="60KB"),
    "saved as nf4, loaded as float32": in_4bit(SAVED["nf4"], load="float32"),
    "saved as nf4, dequantized to float32": in_4bit(SAVED["nf4"], dequantize="float32"),
    "saved as nf4, written as float16": in_4bit(SAVED["nf4"], save="float16"),
    "saved as nf4, large": in_4bit(
        SAVED["nf4"], {"hidden_size": 1088, "intermediate_size": 2112, "num_hidden_layers": 1}
    ),
    **{
        f"{old} written as {new}": Case(dtype=old, save=new, adapters=adapters)
        for old, new, adapters in (
            ("bfloat16", "float32", (lora(),)),
            ("bfloat16", "float16", (lora(),)),
            ("float32", "bfloat16", (lora(),)),
            ("float32", "float16", ()),
            ("float16", "bfloat16", ()),
        )
    },
    "loaded as float32": Case(load="float32"),
    "loaded as float16": Case(load="float16", dtype="float32"),
    "loaded as float32, written as float16": Case(load="float32", save="float16"),
    "float32 norms": Case(norms="float32"),
    "float32 norms, loaded as float16": Case(norms="float32", load="float16"),
    "bfloat16 norms in float32": Case(norms="bfloat16", dtype="float32"),
    "nf4, loaded as float32": in_4bit(load="float32"),
    "nf4, loaded as bfloat16": in_4bit(dtype="float32", load="bfloat16"),
    "nf4, dequantized to float32": in_4bit(dequantize="float32"),
    "nf4, dequantized to float32 and written so": in_4bit(dequantize="float32", save="float32"),
    "nf4, into the original weights": in_4bit(original=True),
    "nf4, into the original weights in float32": in_4bit(original=True, dequantize="float32"),
    **{
        f"summed in float32, {name}": replace(case, accumulate="float32")
        for name, case in {
            "bfloat16": Case(),
            "float16": Case(dtype="float16"),
            "float32": Case(dtype="float32"),
            "two adapters": Case((lora(), lora(target_modules=["q_proj"])), weights=(0.7, -0.4)),
            "two merges": Case((lora(), lora(target_modules=["q_proj"])), one_fold_each=True),
            "some layers": Case((lora(target_modules=["q_proj"]),)),
            "nf4": in_4bit(),
            "nf4, some layers": in_4bit(adapters=(lora(target_modules=["v_proj"]),)),
            "nf4 of a float16 base": in_4bit(dtype="float16"),
            "int8": in_4bit(Quantization("int8")),
            "saved as nf4": in_4bit(SAVED["nf4"]),
            "saved as int8": in_4bit(SAVED["int8"]),
            "dequantized to float32": in_4bit(dequantize="float32"),
        }.items()
    },
}


def build_model(folder: Path, name: str, dtype: str, sizes: dict[str, int] | None = None) -> Path:
    kind, changes = MODELS[name]
    config_class = getattr(
        transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config"
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(
        config_class(**{**SMALL, **changes, **(sizes or {})})
    )
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="100KB")
    build_tokenizer(folder)
    return folder


def build(case: Case, folder: Path) -> tuple[Path, list[Path]]:
    """The base and the adapters; these are made for the base before it is quantized."""
    base = build_model(folder / "base", case.model, case.dtype, case.sizes)
    adapters = [
        build_adapter(
            folder / f"adapter_{n}",
            base,
            deepcopy(config),
            seed=n,
            dtype=getattr(torch, case.dtype),
        )
        for n, config in enumerate(case.adapters)
    ]
    for adapter in adapters:
        recast(adapter, case.adapter_dtype)
    if case.norms:
        recast(base, case.norms, only="norm")
    if case.quantization and case.quantization.saved:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", **bitsandbytes(case.quantization)
        )
        model.save_pretrained(folder / "packed", max_shard_size="100KB")
        base = folder / "packed"
    return base, adapters


def recast(folder: Path, dtype: str, only: str = "") -> None:
    """Change the dtype of the tensors in a folder whose names hold the word."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if only in name:
                tensors[name] = tensors[name].to(getattr(torch, dtype)).contiguous()
        save_file(tensors, file, metadata={"format": "pt"})


def bitsandbytes(quantization: Quantization) -> dict[str, Any]:
    if quantization.kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.kind,
            bnb_4bit_use_double_quant=quantization.double_quant,
            bnb_4bit_quant_storage=quantization.storage,
        )
    }


def plain_merge(case: Case, base: Path, adapters: list[Path], output: Path) -> None:
    """What a careful person writes by hand."""
    quantized = case.quantization is not None and not case.original
    how = bitsandbytes(case.quantization) if quantized and not case.quantization.saved else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=case.load or "auto", **how
    )
    own = getattr(torch, case.dequantize or case.load or case.dtype)
    in_float32 = case.accumulate == "float32"
    if quantized:
        for module in model.modules():
            if in_float32 and isinstance(module, Linear4bit):
                module.weight.quant_state.dtype = torch.float32
        model = model.dequantize(dtype=torch.float32 if in_float32 else own)
    model = model.to(own if not in_float32 else torch.float32)
    if case.one_fold_each:
        for adapter in adapters:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
            model = model.to(own).to(torch.float32) if in_float32 else model
    elif adapters:
        model = plain_adapters(model, adapters, case.weights).merge_and_unload()
    if quantized:
        model._weight_conversions = []  # those of bitsandbytes have no inverse, and saving fails
    written = getattr(torch, case.dtype if case.save == "keep" else case.save)
    model.to(own).to(written).save_pretrained(output, max_shard_size=case.shard)


def blueprint_of(case: Case, base: Path, adapters: list[Path]) -> Blueprint:
    weights = case.weights or (1.0,) * len(adapters)
    described = [
        Adapter(str(path), name=f"adapter_{n}", weight=weight)
        for n, (path, weight) in enumerate(zip(adapters, weights, strict=True))
    ]
    together = [described] if described else []
    folds = [[adapter] for adapter in described] if case.one_fold_each else together
    return Blueprint(
        Base(str(base), dtype=case.load, quantization=case.quantization),
        dequantize=case.quantization is not None,
        dequantize_dtype=case.dequantize,
        dequantize_from="original" if case.original else "quantized",
        folds=tuple(Fold(tuple(adapters), accumulate=case.accumulate) for adapters in folds),
    )


def written(
    blueprint: Blueprint,
    folder: Path,
    shard: str = "5GB",
    dtype: SavedDtype = "keep",
    engine: Engine = "stream",
) -> Path:
    """The folder that `save` would publish, written by one of the realisers."""
    recipe = Recipe("r", folder / "r.yaml", (), run_dir=folder, device="cpu", engine=engine)
    run = RunContext(recipe, Silent())  # type: ignore[arg-type]
    run.state = State(blueprint=blueprint)
    output = folder / engine
    output.mkdir()
    write_model(run, output, dtype=dtype, max_shard_size=shard)
    return output
