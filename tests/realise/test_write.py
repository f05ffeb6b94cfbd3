"""A written folder serves by itself: weights, config, tokenizer and the rest."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Placement, Quantization
from pipeline.errors import InputError, MergeError
from pipeline.realise import write_model
from pipeline.realise.write import save_model
from pipeline.recipe.model import Recipe
from pipeline.report.plain import PlainConsole
from pipeline.run import RunContext
from tests.fixtures.models import CHAT_TEMPLATE, build_adapter, build_base, build_tokenizer

NF4 = Quantization("nf4", double_quant=True, compute_dtype="bfloat16")
TOKENS = torch.arange(3, 40)[None]

RunOf = Callable[[Blueprint], RunContext]


@pytest.fixture
def run_of(tmp_path: Path) -> RunOf:
    """A run that stands at a step with that blueprint."""

    def make(blueprint: Blueprint) -> RunContext:
        recipe = Recipe("r", tmp_path / "r.yaml", steps=(), run_dir=tmp_path / "run", device="cpu")
        run = RunContext(recipe, PlainConsole(io.StringIO()))
        run.state = replace(run.state, blueprint=blueprint)
        return run

    return make


@pytest.fixture
def merged(base_model: Any, tmp_path: Path) -> Blueprint:
    """A LoRA adapter merged into a dequantized bfloat16 base."""
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "adapter", base, LoraConfig(target_modules=["q_proj"]))
    return Blueprint(
        Base(str(base), quantization=NF4), dequantize=True, folds=(Fold((Adapter(str(adapter)),)),)
    )


def write(run: RunContext, folder: Path, dtype: Any = "keep", max_shard_size: str = "5GB") -> Any:
    folder.mkdir()
    return write_model(run, folder, dtype=dtype, max_shard_size=max_shard_size)


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def test_folder_loads_and_computes_what_the_model_in_memory_does(
    merged: Blueprint, run_of: RunOf, tmp_path: Path
) -> None:
    run = run_of(merged)
    written = write(run, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    with torch.inference_mode():
        assert torch.equal(loaded(TOKENS).logits, run.live().model(TOKENS).logits)
    assert "quantization_config" not in config_of(tmp_path / "out")
    assert config_of(tmp_path / "out")["dtype"] == written.dtype == "bfloat16"
    assert written.bytes == (tmp_path / "out/model.safetensors").stat().st_size
    assert written.tensors == len(load_file(tmp_path / "out/model.safetensors")) == 21
    assert run.record.metrics == {"modules_merged": 2, "modules_changed": 2}


def test_shards_hold_the_same_tensors(merged: Blueprint, run_of: RunOf, tmp_path: Path) -> None:
    run = run_of(merged)
    whole, parts = (
        write(run, tmp_path / "whole"),
        write(run, tmp_path / "parts", max_shard_size="60KB"),
    )
    files = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(files) > 2
    assert parts.tensors == whole.tensors
    index = json.loads((tmp_path / "parts/model.safetensors.index.json").read_text())["weight_map"]
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert index.keys() == found.keys()
    for name, tensor in load_file(tmp_path / "whole/model.safetensors").items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cast_leaves_the_model_of_the_run_as_described(
    dtype: Any, merged: Blueprint, run_of: RunOf, tmp_path: Path
) -> None:
    run = run_of(merged)
    kept = {name: tensor.clone() for name, tensor in run.live().model.state_dict().items()}
    written = write(run, tmp_path / "out", dtype)
    wanted = getattr(torch, dtype)
    assert written.dtype == config_of(tmp_path / "out")["dtype"] == dtype
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        assert torch.equal(tensor, kept[name].to(wanted)), name
        assert tensor.dtype == wanted
    again = run.live().model.state_dict()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_keep_is_the_dtype_of_the_checkpoint(
    base_model: Any, run_of: RunOf, tmp_path: Path
) -> None:
    base = base_model("llama")
    written = write(run_of(Blueprint(Base(str(base), dtype="float32"))), tmp_path / "out")
    assert written.dtype == "bfloat16"
    original = load_file(base / "model.safetensors")
    saved = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(saved[name], original[name]) for name in original)


def test_overflow_in_a_cast_names_the_tensor(tmp_path: Path, run_of: RunOf) -> None:
    base = build_base(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model.model.layers[1].mlp.up_proj.weight.data[2, 3] = -1e6
    model.save_pretrained(base)
    with pytest.raises(
        MergeError, match=r"^model\.layers\.1\.mlp\.up_proj\.weight: .*overflow float16"
    ):
        write(run_of(Blueprint(Base(str(base)))), tmp_path / "out", "float16")


def test_nf4_base_is_saved_as_nf4(base_model: Any, run_of: RunOf, tmp_path: Path) -> None:
    base = base_model("llama")
    run = run_of(Blueprint(Base(str(base), quantization=NF4)))
    write(run, tmp_path / "out")
    said = config_of(tmp_path / "out")["quantization_config"]
    assert (said["bnb_4bit_quant_type"], said["bnb_4bit_use_double_quant"]) == ("nf4", True)
    saved = Base(str(tmp_path / "out"), quantization=replace(NF4, saved=True))
    with torch.inference_mode():
        expected = run.live().model(TOKENS).logits
        assert torch.equal(run_of(Blueprint(saved)).live().model(TOKENS).logits, expected)
    write(run_of(Blueprint(saved)), tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_base_saved_in_4_bit_becomes_plain(base_model: Any, run_of: RunOf, tmp_path: Path) -> None:
    base = Base(str(base_model("llama")), quantization=NF4)
    write(run_of(Blueprint(base)), tmp_path / "nf4")
    write(run_of(Blueprint(base, dequantize=True)), tmp_path / "direct")
    saved = Base(str(tmp_path / "nf4"), quantization=replace(NF4, saved=True))
    written = write(run_of(Blueprint(saved, dequantize=True)), tmp_path / "plain")
    assert written.dtype == "bfloat16"
    direct, plain = (
        load_file(tmp_path / name / "model.safetensors") for name in ("direct", "plain")
    )
    assert direct.keys() == plain.keys()
    assert all(torch.equal(direct[name], plain[name]) for name in direct)
    assert config_of(tmp_path / "plain") == config_of(tmp_path / "direct")


def test_offloaded_model_is_merged_and_written_alike(
    base_model: Any, run_of: RunOf, tmp_path: Path
) -> None:
    base = Base(str(base_model("llama")))
    adapter = build_adapter(
        tmp_path / "adapter", Path(base.model), LoraConfig(target_modules=["q_proj"])
    )
    described = Blueprint(base, folds=(Fold((Adapter(str(adapter)),)),))
    placement = Placement(
        device_map="auto", max_memory={"cpu": "100KB"}, offload_folder=str(tmp_path / "offload")
    )
    offloaded = replace(described, base=replace(base, placement=placement))
    write(run_of(described), tmp_path / "memory")
    write(run_of(offloaded), tmp_path / "disk")
    memory, disk = (load_file(tmp_path / name / "model.safetensors") for name in ("memory", "disk"))
    assert memory.keys() == disk.keys()
    assert all(torch.equal(memory[name], disk[name]) for name in memory)


def test_generation_config_of_the_base_is_kept_as_it_is(
    merged: Blueprint, run_of: RunOf, tmp_path: Path
) -> None:
    base = shutil.copytree(merged.base.model, tmp_path / "base")
    text = json.dumps(
        {"temperature": 0.6, "pad_token_id": -1, "x_unknown": 1, "eos_token_id": [1, 2]}
    )
    (base / "generation_config.json").write_text(text)
    write(run_of(replace(merged, base=replace(merged.base, model=str(base)))), tmp_path / "out")
    assert (tmp_path / "out/generation_config.json").read_text() == text


def test_generation_config_that_transformers_refuses_stops_no_save(
    base_model: Any, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_model("llama"), dtype="auto")
    model.generation_config.temperature = 0.6
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "plain")
    (tmp_path / "out").mkdir()
    save_model(model, tmp_path / "out", max_shard_size="5GB")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    assert model.generation_config.temperature == 0.6


def test_tokenizer_of_the_adapter_wins(merged: Blueprint, run_of: RunOf, tmp_path: Path) -> None:
    adapter = Path(merged.folds[0].adapters[0].path)
    without = write_and_read_tokenizer(run_of(merged), tmp_path / "without")
    assert without.chat_template is None

    own = shutil.copytree(adapter, tmp_path / "own")
    build_tokenizer(own, chat=True, extra=("<|new|>",))
    run = run_of(replace(merged, folds=(Fold((Adapter(str(own)),)),)))
    written = write_and_read_tokenizer(run, tmp_path / "with")
    assert written.chat_template == CHAT_TEMPLATE
    assert (
        written.convert_tokens_to_ids("<|new|>")
        == run.live().tokenizer("<|new|>").input_ids[0]
        == 3
    )


def write_and_read_tokenizer(run: RunContext, folder: Path) -> Any:
    write(run, folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_parameter_that_comes_from_nowhere_is_not_saved(
    base_model: Any, tmp_path: Path, run_of: RunOf
) -> None:
    folder = shutil.copytree(base_model("llama"), tmp_path / "base")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"holds no model\.layers\.2.*random values"):
        write(run_of(Blueprint(Base(str(folder)))), tmp_path / "out")
