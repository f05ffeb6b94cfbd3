"""A live model is what the blueprint says, and a base that cannot be loaded says why."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoTokenizer

from pipeline.accounting import processor
from pipeline.blueprint import Adapter, Base, Blueprint, Placement, Quantization
from pipeline.checkpoint.companions import copy_companions
from pipeline.errors import InputError
from pipeline.realise.live import realise
from pipeline.report import plain
from tests.fixtures.models import build_adapter, build_tokenizer

NF4 = Quantization("nf4", compute_dtype="bfloat16")


def bare(base: Path, **changes: Any) -> Blueprint:
    return Blueprint(Base(str(base), **changes))


@pytest.mark.parametrize("quantization", [NF4, Quantization("int8")])
def test_dequantized_model_shows_no_trace_of_it(
    quantization: Quantization, base_model: Any
) -> None:
    base = base_model("llama")
    model = realise(
        Blueprint(Base(str(base), quantization=quantization), dequantize=True), device="cpu"
    ).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model.config, "quantization_config")
    for mark in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        assert not hasattr(model, mark)
    assert {
        type(module).__name__ for module in model.modules() if "Linear" in type(module).__name__
    } == {"Linear"}


def test_quantized_model_computes_in_the_dtype_of_the_checkpoint(base_model: Any) -> None:
    model = realise(bare(base_model("llama"), quantization=Quantization("nf4")), device="cpu").model
    assert model.model.layers[0].self_attn.q_proj.compute_dtype == torch.bfloat16


def test_model_is_in_evaluation_mode_and_in_the_wanted_dtype(base_model: Any) -> None:
    model = realise(bare(base_model("llama"), dtype="float32"), device="cpu").model
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_attention_implementation_reaches_the_model(base_model: Any) -> None:
    blueprint = bare(base_model("llama"), placement=Placement(attn_implementation="eager"))
    assert realise(blueprint, device="cpu").model.config._attn_implementation == "eager"


def test_offload_to_disk_computes_the_same(base_model: Any, tmp_path: Path) -> None:
    tokens = torch.arange(3, 40)[None]
    base = base_model("llama")
    placement = Placement(
        device_map="auto", max_memory={"cpu": "100KB"}, offload_folder=str(tmp_path / "offload")
    )
    offloaded = realise(bare(base, placement=placement), device="cpu").model
    assert "disk" in offloaded.hf_device_map.values()
    with torch.inference_mode():
        expected = realise(bare(base), device="cpu").model(tokens).logits
        assert torch.equal(offloaded(tokens).logits, expected)


def test_task_chooses_the_head(base_model: Any) -> None:
    base = base_model("bert", dtype="float32")
    for task, kind in [
        ("feature_extraction", "BertModel"),
        ("token_classification", "BertForTokenClassification"),
        ("question_answering", "BertForQuestionAnswering"),
    ]:
        assert type(realise(bare(base, task=task), device="cpu").model).__name__ == kind


def test_seed_decides_what_no_file_holds(base_model: Any) -> None:
    blueprint = bare(base_model("bert", dtype="float32"), task="sequence_classification")
    one, same, other = (
        realise(blueprint, device="cpu", seed=seed).model.classifier.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_task_that_the_architecture_lacks_is_an_input_error(base_model: Any) -> None:
    with pytest.raises(InputError, match="cannot load it as seq2seq_lm"):
        realise(bare(base_model("llama"), task="seq2seq_lm"), device="cpu")


def test_damaged_weights_are_an_input_error(base_model: Any, tmp_path: Path) -> None:
    base = shutil.copytree(base_model("llama"), tmp_path / "base")
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError):
        realise(bare(base), device="cpu")


def test_pickled_base_cannot_run_code(base_model: Any, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(base_model("llama") / "config.json", base)
    torch.save({**load_file(base_model("llama") / "model.safetensors")}, base / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle"):
        realise(bare(base), device="cpu")
    torch.save({"lm_head.weight": Harmful()}, base / "pytorch_model.bin")
    with pytest.raises((InputError, pickle.UnpicklingError)):
        realise(bare(base, allow_pickle=True), device="cpu")
    assert not (tmp_path / "ran").exists()


def test_base_without_tokenizer_says_so(base_model: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base_model("llama") / name, base)
    live = realise(bare(base), device="cpu")
    with pytest.raises(InputError, match="brings a tokenizer"):
        _ = live.tokenizer


def test_broken_tokenizer_is_an_input_error(base_model: Any, tmp_path: Path) -> None:
    base = shutil.copytree(base_model("llama"), tmp_path / "base")
    (base / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    live = realise(bare(base), device="cpu")
    with pytest.raises(InputError, match="tokenizer cannot be loaded"):
        _ = live.tokenizer


def test_progress_is_told_to_the_console(base_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "SECONDS_BETWEEN_LINES", 0)
    stream = io.StringIO()
    blueprint = Blueprint(Base(str(base_model("llama")), quantization=NF4), dequantize=True)
    realise(blueprint, device="cpu", console=plain.PlainConsole(stream))
    assert "building the model" in stream.getvalue()


@pytest.mark.parametrize("bare_adapter", [True, False])
def test_live_tokenizer_has_the_chat_template_of_the_saved_folder(
    bare_adapter: bool, base_model: Any, tmp_path: Path
) -> None:
    """Before a merge and after it, `generate` must speak to the model in the same way."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(base_model("llama"), base)
    build_adapter(adapter, base, LoraConfig(target_modules=["q_proj"]))
    if bare_adapter:
        (adapter / "chat_template.jinja").write_text("adapter's: {{ messages }}")
    else:
        build_tokenizer(adapter)
        (base / "chat_template.jinja").write_text("base's: {{ messages }}")
    attached = Blueprint(Base(str(base)), adapters=(Adapter(str(adapter)),))
    saved = tmp_path / "saved"
    saved.mkdir()
    copy_companions(attached, saved)
    expected = AutoTokenizer.from_pretrained(saved).chat_template
    assert expected in ("adapter's: {{ messages }}", "base's: {{ messages }}")
    assert realise(attached, device="cpu").tokenizer.chat_template == expected


def test_tensors_that_do_not_fit_the_config_are_named_with_both_shapes(
    base_model: Any, tmp_path: Path
) -> None:
    folder = edited(base_model("llama"), tmp_path / "base", hidden_size=32)
    with pytest.raises(
        InputError, match=r"is \[320, 64\] in the file and \[320, 32\] in the model"
    ):
        realise(Blueprint(Base(str(folder))), device="cpu")


def test_a_wrong_value_of_the_config_is_named(base_model: Any, tmp_path: Path) -> None:
    folder = edited(base_model("llama"), tmp_path / "base", hidden_size="64")
    with pytest.raises(InputError, match=r"hidden_size.*got.*64"):
        realise(Blueprint(Base(str(folder))), device="cpu")


def test_tensors_of_the_base_that_the_model_has_no_place_for_are_told(
    base_model: Any, tmp_path: Path
) -> None:
    folder = edited(base_model("llama"), tmp_path / "base", num_hidden_layers=1)
    (warning,) = realise(Blueprint(Base(str(folder))), device="cpu").warnings
    assert "9 tensors" in warning
    assert "model.layers.1.input_layernorm.weight" in warning


def edited(base: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a base with other values in its config."""
    shutil.copytree(base, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("width", [80, 96, 112, 144, 72])
@pytest.mark.parametrize("double_quant", [True, False])
def test_rows_that_end_within_a_block_of_4_bits_are_dequantized_right(
    width: int, double_quant: bool, base_model: Any
) -> None:
    """bitsandbytes gives them the scales of other blocks on some processors, and no warning."""
    base = base_model("llama", intermediate_size=width)
    quantization = Quantization("nf4", double_quant=double_quant, compute_dtype="bfloat16")
    model = realise(
        Blueprint(Base(str(base), quantization=quantization), dequantize=True), device="cpu"
    ).model
    name = "model.layers.0.mlp.down_proj.weight"
    weight = load_file(base / "model.safetensors")[name]
    ours = model.get_parameter(name)
    assert ours.shape == weight.shape
    # Neighbouring values of nf4 are at most 0.31 of the largest value of the block apart.
    blocks = weight.float().reshape(-1, 64)
    error = (ours.float().reshape(-1, 64) - blocks).abs().amax(1)
    assert bool((error <= 0.17 * blocks.abs().amax(1)).all())


@pytest.mark.skipif(not processor.has("avx512f"), reason="bitsandbytes is right without AVX512")
def test_4_bits_that_bitsandbytes_cannot_run_here_are_refused_with_what_to_do(
    base_model: Any,
) -> None:
    base = base_model("llama", intermediate_size=80)
    with pytest.raises(InputError, match="rows of 80 values end within a block of 64") as caught:
        realise(bare(base, quantization=NF4), device="cpu")
    assert str(caught.value.where).endswith("down_proj")
    assert "dequantize" in str(caught.value.fix)
