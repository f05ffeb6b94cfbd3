"""The streaming realiser writes, bit for bit, what plain transformers, PEFT and bitsandbytes calls write.

The table says what streams: (architecture) x (precision, through 4 bits or not) x (kind of adapter). What
it does not name is made by PEFT itself (`test_modules.py`), and `NOT_DIRECT` says why.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file, save_file

from pipeline.accounting.architectures import ARCHITECTURES, linear_layers, tensor_shapes
from pipeline.accounting.choice import choose
from pipeline.accounting.processor import has
from pipeline.blueprint import (
    Adapter,
    Base,
    Blueprint,
    Fold,
    Quantization,
)
from pipeline.errors import InputError
from tests.fixtures.models import build_adapter
from tests.parity.plain import assert_same_bits, config_of, tensors_of
from tests.parity.stream_cases import (
    CASES,
    MODELS,
    NF4,
    SAVED,
    Case,
    blueprint_of,
    build,
    build_model,
    in_4bit,
    lora,
    plain_merge,
    written,
)


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
