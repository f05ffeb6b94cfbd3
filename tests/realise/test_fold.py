"""A fold changes what the adapter says, all of it, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Quantization
from pipeline.errors import MergeError
from pipeline.realise.fold import digests
from pipeline.realise.live import realise
from pipeline.realise.write import save_model
from tests.fixtures.models import build_adapter, build_base

TOKENS = torch.arange(3, 40)[None]
NF4 = Quantization("nf4", double_quant=True, compute_dtype="bfloat16")


def lora(*modules: str, **changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(modules), **changes})


def merged(base: Path, adapter: Path, *, safe: bool = True, **changes: Any) -> Blueprint:
    return Blueprint(Base(str(base), **changes), folds=(Fold((Adapter(str(adapter)),), safe=safe),))


def factors(adapter: Path, module: str, kind: str = "") -> torch.Tensor:
    """The delta of a LoRA module with alpha / rank = 2, as (out, in)."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    a, b = (
        tensors[f"base_model.model.{module}.lora_{kind}{side}{'' if kind else '.weight'}"]
        for side in "AB"
    )
    return 2 * (b @ a)


def test_merge_that_changes_nothing_is_an_error(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora("q_proj"), scale=0)
    with pytest.raises(MergeError, match="changes no tensor"):
        realise(merged(base, adapter), device="cpu")


def test_module_that_stays_as_it_was_is_reported(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora("q_proj", "v_proj"))
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"].zero_()
    save_file(tensors, file)
    live = realise(merged(base, adapter), device="cpu")
    assert live.facts == {"modules_merged": 4, "modules_changed": 3}
    assert len(live.warnings) == 1
    assert "1 of 4" in live.warnings[0]
    assert "model.layers.1.self_attn.q_proj" in live.warnings[0]


@pytest.mark.parametrize("safe", [True, False])
def test_overflow_in_a_merged_weight_names_the_module(
    safe: bool, base_model: Any, tmp_path: Path
) -> None:
    base = base_model("llama", dtype="float16")
    adapter = build_adapter(tmp_path / "a", base, lora("q_proj", "v_proj"))
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"].mul_(1e8)
    save_file(tensors, file)
    if safe:
        with pytest.raises(
            MergeError, match=r"^model\.layers\.1\.self_attn\.q_proj: .*NaN or infinite"
        ):
            realise(merged(base, adapter), device="cpu")
    else:
        model = realise(merged(base, adapter, safe=False), device="cpu").model
        assert not torch.isfinite(model.model.layers[1].self_attn.q_proj.weight).all()


def test_digest_sees_one_bit(base_model: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_model("llama"), dtype="auto")
    before = digests(model)
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data.view(torch.int16)[5, 7] ^= 1
    after = digests(model)
    assert [name for name in before if before[name] != after[name]] == [
        "model.layers.0.mlp.up_proj.weight"
    ]


def test_gpt2_in_4_bit_keeps_the_layout_of_its_files(tmp_path: Path, base_model: Any) -> None:
    """transformers' dequantize() leaves GPT-2's layers transposed, in a folder that does not load."""
    base = base_model("gpt2")
    adapter = build_adapter(tmp_path / "a", base, lora("c_attn", fan_in_fan_out=True))
    blueprint = Blueprint(
        Base(str(base), quantization=NF4), dequantize=True, folds=(Fold((Adapter(str(adapter)),)),)
    )
    model = realise(blueprint, device="cpu").model
    save_model(model, tmp_path / "out", max_shard_size="5GB")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    with torch.inference_mode():
        assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    plain = AutoModelForCausalLM.from_pretrained(
        base,
        dtype="auto",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    ).dequantize()
    for layer in range(2):
        name = f"transformer.h.{layer}.attn.c_attn"
        transposed = plain.get_parameter(f"{name}.weight")
        expected = (transposed + factors(adapter, name)).to(torch.bfloat16)
        assert torch.equal(model.get_parameter(f"{name}.weight"), expected.t())


@pytest.mark.parametrize(
    ("modules", "options"),
    [
        (["lm_head"], {}),
        (["embed_tokens"], {}),
        (["embed_tokens", "lm_head"], {}),
        (["q_proj"], {"modules_to_save": ["lm_head"]}),
        (["q_proj"], {"modules_to_save": ["embed_tokens"]}),
        (["q_proj"], {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (["q_proj"], {"trainable_token_indices": [3, 9]}),
    ],
)
def test_tied_ends_become_what_base_and_adapter_compute(
    modules: list[str], options: dict[str, Any], base_model: Any, tmp_path: Path
) -> None:
    base = base_model("qwen2", dtype="float32")
    adapter = build_adapter(tmp_path / "a", base, lora(*modules, **options))
    attached = Blueprint(Base(str(base)), adapters=(Adapter(str(adapter)),))
    with torch.inference_mode():
        expected = realise(attached, device="cpu").model(TOKENS).logits
        model = realise(merged(base, adapter), device="cpu").model
        logits = model(TOKENS).logits
        save_model(model, tmp_path / "out", max_shard_size="5GB")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert torch.allclose(logits, expected, atol=1e-4)
        assert torch.equal(loaded(TOKENS).logits, logits)
    tied = "trainable_token_indices" in options
    assert loaded.config.tie_word_embeddings is tied
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied


def test_head_of_a_tied_base_gets_the_delta_and_the_embedding_does_not(
    base_model: Any, tmp_path: Path
) -> None:
    base = base_model("qwen2", dtype="float32")
    adapter = build_adapter(tmp_path / "a", base, lora("lm_head"))
    model = realise(merged(base, adapter), device="cpu").model
    embedding = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert torch.equal(model.lm_head.weight, embedding + factors(adapter, "lm_head"))


def test_embedding_of_a_tied_base_gets_the_delta_and_the_head_does_not(
    base_model: Any, tmp_path: Path
) -> None:
    base = base_model("qwen2", dtype="float32")
    adapter = build_adapter(tmp_path / "a", base, lora("embed_tokens"))
    model = realise(merged(base, adapter), device="cpu").model
    embedding = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    delta = factors(adapter, "model.embed_tokens", "embedding_").t()
    assert torch.equal(model.lm_head.weight, embedding)
    assert torch.allclose(model.model.embed_tokens.weight, embedding + delta, atol=1e-6)


def test_equal_copies_of_both_ends_are_tied_again(base_model: Any, tmp_path: Path) -> None:
    base = base_model("qwen2")
    adapter = build_adapter(
        tmp_path / "a", base, lora("q_proj", modules_to_save=["embed_tokens", "lm_head"])
    )
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    embedding = tensors["base_model.model.model.embed_tokens.weight"]
    save_file({**tensors, "base_model.model.lm_head.weight": embedding.clone()}, file)
    model = realise(merged(base, adapter), device="cpu").model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings is True


def test_t5_with_its_head_untied_computes_the_same_after_loading(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", "t5", dtype="float32")
    adapter = build_adapter(
        tmp_path / "a", base, lora("lm_head", "q"), auto_class="AutoModelForSeq2SeqLM"
    )
    described = (Adapter(str(adapter)),)
    inputs = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :8]}
    with torch.inference_mode():
        attached = Blueprint(Base(str(base), task="seq2seq_lm"), adapters=described)
        expected = realise(attached, device="cpu").model(**inputs).logits
        model = realise(merged(base, adapter, task="seq2seq_lm"), device="cpu").model
        save_model(model, tmp_path / "out", max_shard_size="5GB")
        loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-4)
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
