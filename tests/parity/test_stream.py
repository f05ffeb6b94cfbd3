"""The streaming realiser writes, bit for bit, what plain transformers, PEFT and bitsandbytes calls write.

The table says what streams: (architecture) x (precision, through 4 bits or not) x (kind of adapter). What
it does not name is made by PEFT itself (`test_modules.py`), and `NOT_DIRECT` says why.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from peft import IA3Config, LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from pipeline.accounting.architectures import ARCHITECTURES, linear_layers, tensor_shapes
from pipeline.accounting.choice import choose
from pipeline.accounting.processor import has
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
from pipeline.errors import InputError
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


@pytest.mark.parametrize("name", CASES)
def test_streamed_folder_equals_that_of_plain_calls(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    if case.quantization and case.dtype == "float16" and not has("avx512f"):
        pytest.skip("goes live on this processor, as the plan says")
    base, adapters = build(case, tmp_path)
    blueprint = blueprint_of(case, base, adapters)
    choice = choose(blueprint, case.save, "auto")
    assert choice.engine == "stream", choice.reason

    output = written(blueprint, tmp_path, case.shard, case.save)
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


@pytest.mark.parametrize(
    "name", [n for n in CASES if n.startswith("summed") or "original" in n or "bfloat16 norms" in n]
)
def test_the_live_realiser_writes_the_same(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    blueprint = blueprint_of(case, *build(case, tmp_path))
    ours = written(blueprint, tmp_path, dtype=case.save)
    live = written(blueprint, tmp_path, dtype=case.save, engine="live")
    assert_same_bits(tensors_of(ours), tensors_of(live))


DORA: dict[str, Case] = {
    "summed in float32": Case(accumulate="float32"),
    "summed in float32, nf4": in_4bit(accumulate="float32"),
    "summed in float32, int8": in_4bit(Quantization("int8"), accumulate="float32"),
    "summed in float32, saved as nf4": in_4bit(SAVED["nf4"], accumulate="float32"),
    "original weights": in_4bit(original=True, dequantize="float32"),
    "original weights, summed in float32": in_4bit(original=True, accumulate="float32"),
}


@pytest.mark.parametrize("name", DORA)
def test_what_peft_makes_a_few_modules_at_a_time_is_the_same(name: str, tmp_path: Path) -> None:
    case = replace(DORA[name], adapters=(lora(use_dora=True), lora()), one_fold_each=True)
    blueprint = blueprint_of(case, *build(case, tmp_path))
    why = "with the help of transformers and PEFT, because the adapter has use_dora: True"
    assert choose(blueprint, "keep", "auto").reason == why
    ours = written(blueprint, tmp_path)
    live = written(blueprint, tmp_path, engine="live")
    assert_same_bits(tensors_of(ours), tensors_of(live))


def test_a_sum_in_float32_is_the_nearest_number_to_the_exact_sum(tmp_path: Path) -> None:
    case = Case((lora(), lora(r=8)), one_fold_each=False, accumulate="float32")
    base, adapters = build(case, tmp_path)
    blueprint = blueprint_of(case, base, adapters)
    (tmp_path / "peft").mkdir()
    by_peft = replace(blueprint, folds=(replace(blueprint.folds[0], accumulate="peft"),))
    summed = tensors_of(written(blueprint, tmp_path))
    peft = tensors_of(written(by_peft, tmp_path / "peft"))

    wrong: dict[str, int] = {"float32": 0, "peft": 0}
    for key, weight in tensors_of(base).items():
        exact = weight.double()
        for adapter in adapters:
            factors = tensors_of(adapter)
            a, b = (f"base_model.model.{key.replace('weight', f'lora_{x}.weight')}" for x in "AB")
            if a in factors:
                scale = 7 / factors[a].shape[0]
                exact = exact + factors[b].double() @ factors[a].double() * scale
        nearest = exact.to(torch.bfloat16)
        wrong["float32"] += int((summed[key] != nearest).sum())
        wrong["peft"] += int((peft[key] != nearest).sum())
    assert wrong["peft"] > 1000
    assert wrong["float32"] < wrong["peft"] / 500


def test_the_plan_counts_what_becomes_of_the_tensors(tmp_path: Path) -> None:
    case = in_4bit(adapters=(lora(target_modules=["q_proj", "v_proj"]),))
    choice = choose(blueprint_of(case, *build(case, tmp_path)), "keep", "auto")
    assert choice.reason == "tensor by tensor: 4 merged, 14 through nf4, 7 copied"


@pytest.mark.parametrize("name", MODELS)
def test_known_architectures_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """The table of names and shapes, held against the model's own code and the file that it writes."""
    build_model(tmp_path, name, "bfloat16")
    config = config_of(tmp_path)
    assert tensor_shapes(config) == {key: t.shape for key, t in tensors_of(tmp_path).items()}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    own = {n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if config["tie_word_embeddings"]:
        own.discard("lm_head")
    assert linear_layers(config) == own


@pytest.mark.parametrize("size", ["vocab_size", "intermediate_size", "num_key_value_heads"])
def test_a_base_with_other_sizes_than_its_config_says_is_refused(size: str, tmp_path: Path) -> None:
    case = Case()
    base, adapters = build(case, tmp_path)
    config = config_of(base)
    (base / "config.json").write_text(json.dumps({**config, size: 2 * config[size]}))
    with pytest.raises(InputError, match=r"do not fit its config\.json"):
        written(blueprint_of(case, base, adapters), tmp_path)


def test_every_known_architecture_is_in_the_table() -> None:
    assert {f"{kind}ForCausalLM" for kind, _ in MODELS.values()} == ARCHITECTURES.keys()


NOT_DIRECT: dict[str, tuple[LoraConfig | IA3Config, dict[str, Any], dict[str, Any], str]] = {
    "rows that are not whole blocks of 4 bits": (
        lora(), {"quantization": NF4}, {"dequantize": True}, "whole blocks",
    ),
    "DoRA": (lora(use_dora=True), {}, {}, "use_dora"),
    "saved modules": (lora(modules_to_save=["lm_head"]), {}, {}, "modules_to_save"),
    "bias": (lora(bias="all"), {}, {}, "bias: all"),
    "embeddings": (lora(target_modules=["embed_tokens"]), {}, {}, "lora_embedding"),
    "the head": (lora(target_modules=["lm_head"]), {}, {}, "lm_head.base_layer"),
    "PiSSA": (lora(init_lora_weights="pissa"), {}, {}, "starts from pissa"),
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
def test_4_bits_on_unknown_ground_are_not_direct(
    what: str, how: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = blueprint_of(case := in_4bit(dtype="float16"), *build(case, tmp_path))
    monkeypatch.setattr(f"pipeline.accounting.direct.{what}", how)
    assert why in choose(blueprint, "keep", "auto").reason


@pytest.mark.parametrize("name", NOT_DIRECT)
def test_what_the_direct_path_does_not_know_is_made_by_peft(name: str, tmp_path: Path) -> None:
    config, of_base, of_blueprint, why = NOT_DIRECT[name]
    base = build_model(tmp_path / "base", "llama", "bfloat16")
    adapter = build_adapter(tmp_path / "adapter", base, config)
    blueprint = Blueprint(
        Base(str(base), **of_base), folds=(Fold((Adapter(str(adapter)),)),), **of_blueprint
    )
    choice = choose(blueprint, "keep", "auto")
    assert (choice.engine, choice.work) == ("stream", None)
    assert why in choice.reason


def test_int8_in_a_layout_of_a_gpu_is_not_read_as_rows(tmp_path: Path) -> None:
    case = in_4bit(SAVED["int8"])
    blueprint = blueprint_of(case, *build(case, tmp_path))
    for file in (tmp_path / "packed").glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if name.endswith("weight_format"):
                tensors[name] = tensors[name] + 2
        save_file(tensors, file, metadata={"format": "pt"})
    assert "not stored row by row" in choose(blueprint, "keep", "auto").reason


def test_an_option_that_an_empty_mapping_switches_on_is_not_direct(tmp_path: Path) -> None:
    base = build_model(tmp_path / "base", "llama", "bfloat16")
    adapter = build_adapter(tmp_path / "adapter", base, lora())
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text()) | {"monteclora_config": {}}
    file.write_text(json.dumps(config))
    blueprint = Blueprint(Base(str(base)), folds=(Fold((Adapter(str(adapter)),)),))
    assert choose(blueprint, "keep", "auto").work is None
