"""What streams by modules: kinds of adapter, architectures, precisions, and files of the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from pipeline.blueprint import Adapter, Base, Blueprint, Engine, Fold, Quantization, State, Task
from pipeline.realise import write_model
from pipeline.recipe.model import Recipe
from pipeline.run import RunContext
from tests.fixtures.models import build_adapter, build_base
from tests.fixtures.session import Silent

Make = Callable[[], PeftConfig]
Change = Callable[[Path], None]


def lora(*targets: str, **options: Any) -> Make:
    """On attention unless told; `all-linear` is every linear layer."""
    where: Any = list(targets) or ["q_proj", "v_proj"]
    if where == ["all-linear"]:
        where = "all-linear"
    return lambda: LoraConfig(**{"r": 4, "lora_alpha": 7, "target_modules": where, **options})


def conv1d(*targets: str, **options: Any) -> Make:
    """For GPT-2, whose layers store the transpose."""
    return lora(*targets, fan_in_fan_out=True, **options)


def kind(name: str, *targets: str, **options: Any) -> Make:
    where = list(targets) or ["q_proj", "v_proj"]
    return lambda: getattr(peft, f"{name}Config")(**{"target_modules": where, **options})


@dataclass(frozen=True)
class Case:
    """A base, and what is done with it."""

    adapters: tuple[Make, ...] = (lora("all-linear"),)
    base: str = "llama"
    config: dict[str, Any] = field(default_factory=dict)
    """What is unusual about the base's config."""
    dtype: str = "bfloat16"
    files: Change | None = None
    """Lays out the base's files in another way, once the adapter is made."""
    vocabulary: int | None = None
    """Of the adapter's training, if it resized the base's."""
    load: dict[str, Any] = field(default_factory=dict)
    """Options of the blueprint's base."""
    how: dict[str, Any] = field(default_factory=dict)
    """Options of the blueprint itself."""
    one_fold_each: bool = False
    save: Any = "keep"


TASKS: dict[str, tuple[Task, str]] = {
    "t5": ("seq2seq_lm", "AutoModelForSeq2SeqLM"),
    "bert": ("feature_extraction", "AutoModel"),
    "bert classifier": ("sequence_classification", "AutoModelForSequenceClassification"),
    "whisper": ("speech_seq2seq", "AutoModelForSpeechSeq2Seq"),
    **dict.fromkeys(
        ("llava", "gemma3 with vision", "qwen2-vl"),
        ("image_text_to_text", "AutoModelForImageTextToText"),
    ),
}

KINDS: dict[str, Case] = {
    "LoRA of rank 200": Case((lora(r=200),)),
    "LoRA on some layers": Case((lora(layers_to_transform=[1]),)),
    "rsLoRA": Case((lora(use_rslora=True, modules_to_save=["norm"]),)),
    "patterns": Case(
        (lora(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}, use_dora=True),)
    ),
    "DoRA": Case((lora("all-linear", use_dora=True),)),
    "LoRA with its own bias": Case((lora(lora_bias=True),), config={"attention_bias": True}),
    "bias: all": Case((lora(bias="all"),), config={"attention_bias": True, "mlp_bias": True}),
    "bias: lora_only": Case((lora(bias="lora_only"),), config={"attention_bias": True}),
    "embeddings": Case((lora("embed_tokens", "q_proj"),)),
    "the head": Case((lora("lm_head"),)),
    "a saved head": Case((lora(modules_to_save=["lm_head"]),)),
    "saved ends": Case((lora(modules_to_save=["lm_head", "embed_tokens"]),)),
    "new tokens": Case((lora(modules_to_save=["lm_head", "embed_tokens"]),), vocabulary=330),
    "trained tokens": Case((lora(trainable_token_indices=[1, 5]),)),
    "trained tokens alone": Case(
        (lambda: peft.TrainableTokensConfig(token_indices=[1, 5], target_modules=["embed_tokens"]),)
    ),
    "tied: the head": Case((lora("lm_head", "q_proj"),), "qwen2"),
    "tied: the embedding": Case((lora("embed_tokens", "q_proj"),), "qwen2"),
    "tied: a saved head": Case((lora(modules_to_save=["lm_head"]),), "qwen2"),
    "tied: a saved embedding": Case((lora(modules_to_save=["embed_tokens"]),), "qwen2"),
    "tied: trained tokens": Case((lora(trainable_token_indices=[1, 5]),), "qwen2"),
    "tied: new tokens": Case(
        (lora(modules_to_save=["lm_head", "embed_tokens"]),), "qwen2", vocabulary=330
    ),
    "two adapters": Case((lora(use_dora=True), lora("k_proj", "v_proj", use_dora=True))),
    "two merges": Case((lora(use_dora=True), lora("k_proj", "v_proj")), one_fold_each=True),
    "two kinds": Case((kind("IA3", feedforward_modules=[]), lora("k_proj")), one_fold_each=True),
    "PiSSA": Case((lora(init_lora_weights="pissa"),)),
    "OLoRA": Case((lora(init_lora_weights="olora"),)),
    "EVA": Case((lora(init_lora_weights="eva", use_dora=True),)),
    "LoRA-GA": Case((lora(init_lora_weights="lora_ga"),)),
    "AdaLoRA": Case((kind("AdaLora", init_r=4, target_r=2, total_step=10),)),
    "BEFT": Case((kind("Beft"),), config={"attention_bias": True}),
    "BOFT": Case((kind("BOFT", boft_block_size=4),)),
    "C3A": Case((kind("C3A", block_size=16),)),
    "DEFT": Case((kind("Deft"),)),
    "DeLoRA": Case((kind("Delora"),)),
    "FourierFT": Case((kind("FourierFT", n_frequency=20),)),
    "GLoRA": Case((kind("Glora"),)),
    "GraLoRA": Case((kind("Gralora"),)),
    "HiRA": Case((kind("Hira"),)),
    "HRA": Case((kind("HRA", r=4),)),
    "IA3": Case((kind("IA3", "k_proj", "down_proj", feedforward_modules=["down_proj"]),)),
    "LN tuning": Case((kind("LNTuning", "input_layernorm"),)),
    "LoHa": Case((kind("LoHa", r=4),)),
    "LoKr": Case((kind("LoKr", r=4, alpha=4),)),
    "MiSS": Case((kind("Miss", r=4),)),
    "OFT": Case((kind("OFT", oft_block_size=8, r=0),)),
    "OSF": Case((kind("OSF"),)),
    "PEANuT": Case((kind("Peanut"),)),
    "PSOFT": Case((kind("Psoft"),)),
    "PVeRA": Case((kind("Pvera", "q_proj", "k_proj", "down_proj"),)),
    "RandLoRA": Case((kind("RandLora", "q_proj", "k_proj", "down_proj", r=4),)),
    "RoAd": Case((kind("Road", group_size=8),)),
    "SHiRA": Case((kind("Shira", r=4),)),
    "VB-LoRA": Case((kind("VBLoRA", r=4, num_vectors=16, vector_length=16, topk=2),)),
    "VeRA": Case((kind("Vera", "q_proj", "k_proj", "down_proj", r=4),)),
    "VeRA without its projections": Case(
        (kind("Vera", "q_proj", "k_proj", "down_proj", r=4, save_projection=False),)
    ),
    "WaveFT": Case((kind("WaveFT", n_frequency=20),)),
}

FUSED = ["experts.gate_up_proj", "experts.down_proj"]
ARCHITECTURES: dict[str, Case] = {
    "BERT": Case(base="bert"),
    "BERT, a classifier": Case(
        (lora("query", modules_to_save=["classifier"], task_type="SEQ_CLS"),), "bert classifier"
    ),
    "BERT, all biases": Case((lora("query", bias="all"),), "bert"),
    "BLOOM": Case(base="bloom"),
    "Falcon": Case(base="falcon"),
    "Gemma 3 with vision": Case(base="gemma3 with vision"),
    "GPT-2": Case((conv1d("all-linear"),), "gpt2"),
    "GPT-2, DoRA": Case((conv1d("c_attn", use_dora=True),), "gpt2"),
    "GPT-2, embeddings": Case((conv1d("wte", "c_attn"),), "gpt2"),
    "GPT-NeoX": Case(base="gpt-neox"),
    "LLaVA": Case(base="llava"),
    "Mamba": Case((lora("in_proj", "x_proj"),), "mamba"),
    "Mamba 2": Case((lora("in_proj"),), "mamba2"),
    "Mixtral": Case(base="mixtral"),
    "Mixtral, its experts": Case((lora("q_proj", target_parameters=FUSED),), "mixtral"),
    "OPT": Case(base="opt"),
    "Phi-3": Case((lora("qkv_proj", use_dora=True),), "phi3"),
    "Qwen2-VL": Case(base="qwen2-vl"),
    "Qwen3-MoE": Case(base="qwen3-moe"),
    "Qwen3-MoE, its experts": Case(
        (lambda: LoraConfig(r=4, target_modules=[], target_parameters=FUSED[:1]),), "qwen3-moe"
    ),
    "T5": Case(base="t5"),
    "T5, its embedding": Case((lora("shared", "q"),), "t5"),
    "Whisper": Case(base="whisper"),
    "Whisper, convolutions": Case((lora("conv1", "conv2", "q_proj"),), "whisper"),
}


def quantized(on: str, adapter: Make = lora(), base: str = "llama", **how: Any) -> Case:  # noqa: B008
    return Case(
        (adapter,), base, load={"quantization": QUANTIZED[on]}, how={"dequantize": True, **how}
    )


QUANTIZED = {
    "nf4": Quantization("nf4"),
    "nf4, scales too": Quantization("nf4", double_quant=True),
    "fp4": Quantization("fp4"),
    "int8": Quantization("int8"),
}
PRECISIONS: dict[str, Case] = {
    "float16": Case((lora(use_dora=True),), dtype="float16"),
    "float32": Case((lora(use_dora=True),), dtype="float32"),
    "float16, T5": Case(base="t5", dtype="float16"),
    "loaded as float32": Case((lora(use_dora=True),), load={"dtype": "float32"}),
    "saved as float16": Case((lora(use_dora=True),), save="float16"),
    "saved as float32, Mixtral": Case(base="mixtral", save="float32"),
    "recast only": Case((), "mixtral", save="float16"),
    **{f"{name} on load, DoRA": quantized(name, lora(use_dora=True)) for name in QUANTIZED},
    **{f"{name} on load, GPT-2": quantized(name, conv1d("c_attn"), "gpt2") for name in QUANTIZED},
    "nf4 on load, Mixtral": quantized("nf4", lora("q_proj"), "mixtral"),
    "nf4 on load, dequantized as float32": quantized(
        "nf4", lora(use_dora=True), dequantize_dtype="float32"
    ),
    "int8 on load, dequantized as float32": quantized("int8", dequantize_dtype="float32"),
}


def in_bits(**options: Any) -> Change:
    """Save the base quantized."""

    def save(folder: Path) -> None:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=BitsAndBytesConfig(**options)
        )
        model.save_pretrained(folder)

    return save


def keys(change: Callable[[str], str]) -> Change:
    """Other names of the tensors."""
    return tensors(lambda held: {change(key): tensor for key, tensor in held.items()})


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def rewrite(folder: Path) -> None:
        changed = change(load_file(folder / "model.safetensors"))
        whole = {key: tensor.contiguous() for key, tensor in changed.items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def with_head(factor: float) -> Change:
    """The tied head stored a second time, or another one in its place."""
    name = "model.embed_tokens.weight"
    return tensors(lambda held: {**held, "lm_head.weight": held[name].clone() * factor})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_odd_shards(folder: Path) -> None:
    """Two files, neither in the order of the model, and an index that says less than it may."""
    held = load_file(folder / "model.safetensors")
    names = sorted(held, key=lambda name: name[::-1])
    files = {"b.safetensors": names[::2], "a.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: held[name] for name in part}, folder / file)
    places = {name: file for file, part in files.items() for name in part}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
SAVED = {"nf4": Quantization("nf4", saved=True), "int8": Quantization("int8", saved=True)}
ODD = lora("all-linear", use_dora=True)
FILES: dict[str, Case] = {
    "no prefix, GPT-2": Case(
        (conv1d("all-linear"),), "gpt2", files=keys(lambda key: key.removeprefix("transformer."))),
    "no prefix": Case((ODD,), files=keys(lambda key: key.removeprefix("model."))),
    "a prefix too many": Case((lora("query"),), "bert", files=keys(lambda key: f"bert.{key}")),
    "gamma and beta": Case(
        (lora("query"),), "bert",
        files=keys(lambda key: key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")),
    ),
    "tied, stored twice": Case((ODD,), "qwen2", files=with_head(1)),
    "tied, stored twice, the head merged": Case((lora("lm_head", "q_proj"),), "qwen2", files=with_head(1)),
    "tied, stored twice and not the same": Case((ODD,), "qwen2", files=with_head(2)),
    "tied, the head stored": Case(
        (ODD,), "qwen2", files=keys(lambda key: "lm_head.weight" if "embed_tokens" in key else key)
    ),
    "norms in float32": Case(
        (ODD,), files=tensors(lambda held: {k: t.float() if "norm" in k else t for k, t in held.items()})
    ),
    "odd shards": Case((ODD,), files=in_odd_shards),
    "odd shards, Mixtral": Case(base="mixtral", files=in_odd_shards),
    "pickled": Case((lora(),), files=pickled, load={"allow_pickle": True}),
    "saved nf4": Case(
        (ODD,), files=in_bits(**FOUR_BITS), load={"quantization": SAVED["nf4"]}, how={"dequantize": True}
    ),
    "saved nf4, scales too": Case(
        (ODD,), files=in_bits(**FOUR_BITS, bnb_4bit_use_double_quant=True),
        load={"quantization": replace(SAVED["nf4"], double_quant=True)}, how={"dequantize": True},
    ),
    "saved nf4, GPT-2": Case(
        (conv1d("c_attn"),), "gpt2",
        files=in_bits(**FOUR_BITS), load={"quantization": SAVED["nf4"]}, how={"dequantize": True},
    ),
    "saved int8": Case(
        (ODD,), files=in_bits(load_in_8bit=True), load={"quantization": SAVED["int8"]},
        how={"dequantize": True},
    ),
}  # fmt: skip

CASES = {**KINDS, **ARCHITECTURES, **PRECISIONS, **FILES}


# What PEFT says of these kinds: BOFT has a CUDA kernel, which is slower without; LN tuning was written for
# other norms; SHiRA uses sparse tensors; VeRA can make its projections again from a seed. The others are of
# the training, which is none here.
SAID_BY_PEFT = [
    pytest.mark.filterwarnings(f"ignore:{start}")
    for start in (
        "Failed to load the CUDA extension",
        "Unsupported layer type",
        "Sparse invariant checks",
        "Setting boft_n_butterfly_factor",
        "Specified to not save vera_A",
        "Specified to not load vera_A",
        "Setting `save_embedding_layers` to `True`",
        "Model has `tie_word_embeddings=True`",
        ".init_lora_weights. is .eva. but",
        "lora with eva initialization",
        "The following (rank|alpha)_pattern keys did not match",  # that PEFT itself adds, for experts
    )
]


def build(case: Case, folder: Path) -> Blueprint:
    task, auto = TASKS.get(case.base, ("causal_lm", "AutoModelForCausalLM"))
    base = build_base(folder / "base", case.base, dtype=case.dtype, **case.config)
    described = [
        Adapter(
            str(
                build_adapter(
                    folder / f"adapter_{n}",
                    base,
                    make(),
                    seed=n,
                    auto_class=auto,
                    vocabulary=case.vocabulary,
                )
            ),
            name=f"adapter_{n}",
        )
        for n, make in enumerate(case.adapters)
    ]
    if case.files is not None:
        case.files(base)
    together = [described] if described else []
    folds = [[adapter] for adapter in described] if case.one_fold_each else together
    return Blueprint(
        Base(str(base), task=task, **case.load),
        folds=tuple(Fold(tuple(adapters)) for adapters in folds),
        **case.how,
    )


def written(case: Case, blueprint: Blueprint, folder: Path, engine: Engine) -> Path:
    recipe = Recipe("r", folder / "r.yaml", (), run_dir=folder, device="cpu", engine=engine)
    run = RunContext(recipe, Silent())  # type: ignore[arg-type]
    run.state = State(blueprint=blueprint)
    output = folder / engine
    output.mkdir()
    write_model(run, output, dtype=case.save, max_shard_size="5GB")
    return output
