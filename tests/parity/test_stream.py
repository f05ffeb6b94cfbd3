"""The streaming realiser writes, bit for bit, what plain transformers, PEFT and bitsandbytes calls write.

The table says what streams: (architecture) x (precision, through 4 bits or not) x (kind of adapter). What
it does not name goes live, and `GOES_LIVE` says why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel
from transformers import BitsAndBytesConfig

from pipeline.accounting.architectures import ARCHITECTURES, linear_layers, tensor_names
from pipeline.accounting.choice import choose
from pipeline.accounting.processor import has
from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Quantization, State
from pipeline.realise import write_model
from pipeline.recipe.model import Recipe
from pipeline.run import RunContext
from tests.fixtures.models import build_adapter, build_tokenizer
from tests.fixtures.session import Silent
from tests.parity.plain import assert_same_bits, config_of, plain_adapters, tensors_of

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


NF4, FP4 = Quantization("nf4", double_quant=True), Quantization("fp4", double_quant=True)
WHOLE = {"intermediate_size": 192}
"""So that rows are whole blocks of 64, which 4 bits need, as those of real models are."""


def in_4bit(quantization: Quantization = NF4, sizes: dict[str, int] = WHOLE, **how: Any) -> Case:
    return Case(quantization=quantization, sizes=sizes, **how)


CASES: dict[str, Case] = {
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
    base = build_model(folder / "base", case.model, case.dtype, case.sizes)
    adapters = [
        build_adapter(
            folder / f"adapter_{n}", base, config, seed=n, dtype=getattr(torch, case.dtype)
        )
        for n, config in enumerate(case.adapters)
    ]
    for adapter in adapters:
        recast(adapter, getattr(torch, case.adapter_dtype))
    return base, adapters


def recast(adapter: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file({name: t.to(dtype).contiguous() for name, t in load_file(file).items()}, file)


def plain_merge(case: Case, base: Path, adapters: list[Path], output: Path) -> None:
    """What a careful person writes by hand."""
    how: dict[str, Any] = {}
    if case.quantization:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=case.quantization.kind,
            bnb_4bit_use_double_quant=case.quantization.double_quant,
            bnb_4bit_quant_storage=case.quantization.storage,
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto", **how)
    if case.quantization:
        model = model.dequantize()
    if case.one_fold_each:
        for adapter in adapters:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    elif adapters:
        model = plain_adapters(model, adapters, case.weights).merge_and_unload()
    model.save_pretrained(output, max_shard_size=case.shard)


def blueprint_of(case: Case, base: Path, adapters: list[Path]) -> Blueprint:
    weights = case.weights or (1.0,) * len(adapters)
    described = [
        Adapter(str(path), name=f"adapter_{n}", weight=weight)
        for n, (path, weight) in enumerate(zip(adapters, weights, strict=True))
    ]
    together = [described] if described else []
    folds = [[adapter] for adapter in described] if case.one_fold_each else together
    return Blueprint(
        Base(str(base), quantization=case.quantization),
        dequantize=case.quantization is not None,
        folds=tuple(Fold(tuple(adapters)) for adapters in folds),
    )


def streamed(blueprint: Blueprint, folder: Path, shard: str = "5GB") -> Path:
    """The folder that `save` would publish, written by the streaming realiser."""
    recipe = Recipe("r", folder / "r.yaml", (), run_dir=folder, device="cpu", engine="stream")
    run = RunContext(recipe, Silent())  # type: ignore[arg-type]
    run.state = State(blueprint=blueprint)
    output = folder / "streamed"
    output.mkdir()
    write_model(run, output, dtype="keep", max_shard_size=shard)
    return output


@pytest.mark.parametrize("name", CASES)
def test_streamed_folder_equals_that_of_plain_calls(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    if case.quantization and case.dtype == "float16" and not has("avx512f"):
        pytest.skip("goes live on this processor, as the plan says")
    base, adapters = build(case, tmp_path)
    blueprint = blueprint_of(case, base, adapters)
    choice = choose(blueprint, "keep", "auto")
    assert choice.engine == "stream", choice.reason

    output = streamed(blueprint, tmp_path, case.shard)
    plain_merge(case, base, adapters, tmp_path / "plain")

    assert_same_bits(tensors_of(output), tensors_of(tmp_path / "plain"))
    ours, plain = config_of(output), config_of(tmp_path / "plain")
    assert {k: v for k, v in ours.items() if k != "transformers_version"} == {
        k: v for k, v in plain.items() if k != "transformers_version"
    }
    index = "model.safetensors.index.json"
    assert (output / index).exists() == (tmp_path / "plain" / index).exists()
    if (output / index).exists():
        ours, plain = (json.loads((f / index).read_text()) for f in (output, tmp_path / "plain"))
        assert ours["weight_map"].keys() == plain["weight_map"].keys()
        assert ours["metadata"]["total_size"] == plain["metadata"]["total_size"]


def test_the_plan_counts_what_becomes_of_the_tensors(tmp_path: Path) -> None:
    case = in_4bit(adapters=(lora(target_modules=["q_proj", "v_proj"]),))
    choice = choose(blueprint_of(case, *build(case, tmp_path)), "keep", "auto")
    assert choice.reason == "tensor by tensor: 4 merged, 14 through nf4, 7 copied"


@pytest.mark.parametrize("name", MODELS)
def test_known_architectures_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """The table of names, held against the model's own code and the file that it writes."""
    build_model(tmp_path, name, "bfloat16")
    config = config_of(tmp_path)
    assert tensor_names(config) == tensors_of(tmp_path).keys()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    own = {n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if config["tie_word_embeddings"]:
        own.discard("lm_head")
    assert linear_layers(config) == own


def test_every_known_architecture_is_in_the_table() -> None:
    assert {f"{kind}ForCausalLM" for kind, _ in MODELS.values()} == ARCHITECTURES.keys()


GOES_LIVE: dict[str, tuple[LoraConfig | IA3Config, dict[str, Any], dict[str, Any], str]] = {
    "int8": (lora(), {"quantization": Quantization("int8")}, {"dequantize": True}, "to int8"),
    "rows that are not whole blocks of 4 bits": (
        lora(), {"quantization": NF4}, {"dequantize": True}, "whole blocks",
    ),
    "still quantized": (lora(), {"quantization": NF4}, {}, "stays quantized"),
    "another dtype after nf4": (
        lora(), {"quantization": NF4}, {"dequantize": True, "dequantize_dtype": "float32"},
        "dequantized as float32",
    ),
    "another dtype in memory": (lora(), {"dtype": "float32"}, {}, "loaded as float32"),
    "DoRA": (lora(use_dora=True), {}, {}, "use_dora"),
    "saved modules": (lora(modules_to_save=["lm_head"]), {}, {}, "modules_to_save"),
    "bias": (lora(bias="all"), {}, {}, "bias: all"),
    "embeddings": (lora(target_modules=["embed_tokens"]), {}, {}, "lora_embedding"),
    "the head": (lora(target_modules=["lm_head"]), {}, {}, "lm_head.base_layer"),
    "PiSSA": (lora(init_lora_weights="pissa"), {}, {}, "starts from pissa"),
    "some layers": (
        lora(target_modules=["q_proj"], layers_to_transform=[1]), {}, {}, "leaves its layers",
    ),
    "rank 200": (lora(r=200, target_modules=["q_proj"]), {}, {}, "rank 200"),
    "IA3": (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), {}, {}, "type IA3"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "how", "why"),
    [
        ("version", lambda name: "0.51.0", "only 0.50 is known"),
        ("platform.machine", lambda: "aarch64", "this processor"),
        ("has", lambda feature: False, "rounds float16"),
    ],
)
def test_4_bits_on_unknown_ground_go_live(
    what: str, how: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = blueprint_of(case := in_4bit(dtype="float16"), *build(case, tmp_path))
    monkeypatch.setattr(f"pipeline.accounting.direct.{what}", how)
    assert why in choose(blueprint, "keep", "auto").reason


@pytest.mark.parametrize("name", GOES_LIVE)
def test_what_is_not_exact_goes_live_and_says_why(name: str, tmp_path: Path) -> None:
    config, of_base, of_blueprint, why = GOES_LIVE[name]
    base = build_model(tmp_path / "base", "llama", "bfloat16")
    adapter = build_adapter(tmp_path / "adapter", base, config)
    blueprint = Blueprint(
        Base(str(base), **of_base), folds=(Fold((Adapter(str(adapter)),)),), **of_blueprint
    )
    choice = choose(blueprint, "keep", "auto")
    assert choice.engine == "live"
    assert why in choice.reason


def test_an_option_that_an_empty_mapping_switches_on_goes_live(tmp_path: Path) -> None:
    base = build_model(tmp_path / "base", "llama", "bfloat16")
    adapter = build_adapter(tmp_path / "adapter", base, lora())
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text()) | {"monteclora_config": {}}
    file.write_text(json.dumps(config))
    blueprint = Blueprint(Base(str(base)), folds=(Fold((Adapter(str(adapter)),)),))
    assert choose(blueprint, "keep", "auto").engine == "live"
