"""Adapters are attached whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pipeline.blueprint import Adapter, Base, Blueprint, Quantization
from pipeline.errors import InputError, MergeError
from pipeline.realise.live import realise
from tests.fixtures.models import build_adapter, build_base

TOKENS = torch.arange(3, 40)[None]


def lora(**changes: Any) -> LoraConfig:
    wanted = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**{**wanted, **changes})


def attached(base: Path, *adapters: Adapter, **changes: Any) -> Blueprint:
    return Blueprint(Base(str(base), **changes), adapters=adapters)


def edit(adapter: Path, change: Any) -> None:
    """Apply `change` to the dict of an adapter's tensors, in its file."""
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_tensor_that_no_module_takes_is_refused(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora())
    stray = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    edit(adapter, lambda tensors: tensors.update({stray: torch.zeros(4, 64)}))
    with pytest.raises(
        MergeError, match=r"nothing in the base takes .*layers\.7.*nearest.*layers\.\d\.self"
    ):
        realise(attached(base, Adapter(str(adapter))), device="cpu")


def test_tensor_that_the_file_lacks_is_refused(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora())
    lost = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    edit(adapter, lambda tensors: tensors.pop(lost))
    with pytest.raises(MergeError, match=r"lacks .*layers\.1\.self_attn\.v_proj\.lora_B"):
        realise(attached(base, Adapter(str(adapter))), device="cpu")


def test_saved_module_that_the_file_lacks_is_refused(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora(modules_to_save=["lm_head"]))
    edit(adapter, lambda tensors: tensors.pop("base_model.model.lm_head.weight"))
    with pytest.raises(MergeError, match=r"lacks .*lm_head\.weight"):
        realise(attached(base, Adapter(str(adapter))), device="cpu")


def test_adapter_of_a_wider_base_names_tensors_and_both_shapes(
    base_model: Any, tmp_path: Path
) -> None:
    wider = build_base(tmp_path / "wider", "llama", hidden_size=128)
    adapter = build_adapter(tmp_path / "a", wider, lora())
    with pytest.raises(
        MergeError, match=r"q_proj\.lora_A.*\[4, 128\] in the adapter and \[4, 64\]"
    ):
        realise(attached(base_model("llama"), Adapter(str(adapter))), device="cpu")


def test_adapter_of_another_architecture_is_refused(base_model: Any, tmp_path: Path) -> None:
    adapter = build_adapter(tmp_path / "a", base_model("llama"), lora())
    with pytest.raises(MergeError, match="PEFT cannot attach it: Target modules"):
        realise(attached(base_model("gpt2"), Adapter(str(adapter))), device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(
    value: float, base_model: Any, tmp_path: Path
) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora())
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    edit(adapter, lambda tensors: tensors[name].view(-1)[3].fill_(value))
    with pytest.raises(MergeError, match=r"adapter_model\.safetensors.*q_proj\.lora_B\.weight"):
        realise(attached(base, Adapter(str(adapter))), device="cpu")


def test_all_adapters_are_active_with_their_weights(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama", dtype="float32")
    one = build_adapter(tmp_path / "one", base, lora(), seed=1)
    two = build_adapter(tmp_path / "two", base, lora(r=2, target_modules=["o_proj"]), seed=2)
    blueprint = attached(base, Adapter(str(one), "one", weight=0.5), Adapter(str(two), "two"))
    live = realise(blueprint, device="cpu")

    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), one, adapter_name="one"
    )
    plain.load_adapter(two, "two")
    plain.base_model.set_adapter(["one", "two"])
    for layer in plain.modules():
        if hasattr(layer, "set_scale"):
            layer.set_scale("one", 0.5)
    with torch.inference_mode():
        assert torch.equal(live.model(TOKENS).logits, plain.eval()(TOKENS).logits)
    assert not live.model.training
    assert not any(parameter.requires_grad for parameter in live.model.parameters())


def test_weight_is_refused_where_it_means_nothing(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora(trainable_token_indices=[3]))
    with pytest.raises(MergeError, match="a weight means nothing"):
        realise(attached(base, Adapter(str(adapter), weight=0.5)), device="cpu")


def test_trainable_adapter_can_go_on_with_its_training(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora())
    model = realise(attached(base, Adapter(str(adapter))), device="cpu", trainable=True).model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 8
    assert all("lora_" in name for name in trained)


def test_classification_head_of_the_adapter_decides_the_labels(
    base_model: Any, tmp_path: Path
) -> None:
    base = base_model("bert", dtype="float32")
    adapter = build_adapter(
        tmp_path / "a",
        base,
        LoraConfig(target_modules=["query"], task_type="SEQ_CLS"),
        auto_class="AutoModelForSequenceClassification",
        num_labels=5,
    )
    live = realise(
        attached(base, Adapter(str(adapter)), task="sequence_classification"), device="cpu"
    )
    saved = load_file(adapter / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert live.model.config.num_labels == 5
    assert torch.equal(
        live.model.base_model.model.classifier.modules_to_save["default"].weight, saved
    )


def test_head_that_nobody_trained_is_refused(base_model: Any, tmp_path: Path) -> None:
    base = base_model("bert", dtype="float32")
    adapter = build_adapter(
        tmp_path / "a", base, LoraConfig(target_modules=["query"]), auto_class="AutoModel"
    )
    with pytest.raises(InputError, match=r"holds no classifier\.\w+.*would be random"):
        realise(attached(base, Adapter(str(adapter)), task="sequence_classification"), device="cpu")


def test_embeddings_that_differ_untie_the_base(base_model: Any, tmp_path: Path) -> None:
    base = base_model("qwen2")
    adapter = build_adapter(tmp_path / "a", base, lora(), vocabulary=328)
    head = torch.randn(328, 64)
    edit(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.weight": head}))
    embedding = load_file(adapter / "adapter_model.safetensors")[
        "base_model.model.model.embed_tokens.weight"
    ]
    model = realise(attached(base, Adapter(str(adapter))), device="cpu").model.get_base_model()
    assert torch.equal(model.lm_head.weight, head.to(torch.bfloat16))
    assert torch.equal(model.get_input_embeddings().weight, embedding.to(torch.bfloat16))
    assert model.config.tie_word_embeddings is False


def test_base_that_has_run_is_never_extended(base_model: Any, tmp_path: Path) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first forward pass."""
    base = base_model("llama")
    config = lora(target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    adapter = build_adapter(tmp_path / "a", base, config)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )

    def plain(*, run_before: bool) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", quantization_config=four_bit
        )
        with torch.inference_mode():
            if run_before:
                model.eval()(TOKENS)
            return PeftModel.from_pretrained(model, adapter).eval()(TOKENS).logits.float()

    quantization = Quantization("nf4", compute_dtype="bfloat16")
    bare = realise(attached(base, quantization=quantization), device="cpu")
    with torch.inference_mode():
        bare.model(TOKENS)
        live = realise(
            attached(base, Adapter(str(adapter)), quantization=quantization), device="cpu"
        )
        ours = live.model(TOKENS).logits.float()
        again = live.model(TOKENS).logits.float()
    right = plain(run_before=False)
    assert torch.equal(ours, right)
    assert torch.equal(again, right)

    from bitsandbytes.functional import has_avx512bf16

    if has_avx512bf16():  # the fault of the libraries that this is about; where it is gone, say so
        wrong = plain(run_before=True)
        assert (wrong - right).abs().max() > 0.01 * right.abs().max()


def test_config_of_another_adapter_is_refused(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora())
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "target_modules": ["q_proj", "v_proj", "k_proj"]}))
    with pytest.raises(MergeError, match=r"lacks .*k_proj\.lora_A"):
        realise(attached(base, Adapter(str(adapter))), device="cpu")


def test_peft_reads_the_config_as_it_was_checked(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    one = build_adapter(tmp_path / "one", base, lora())
    two = build_adapter(tmp_path / "two", base, lora(), seed=2)
    right = realise(attached(base, Adapter(str(one)), Adapter(str(two), "two")), device="cpu")
    for folder in (one, two):  # as an editor on Windows leaves it
        file = folder / "adapter_config.json"
        config = {**json.loads(file.read_text()), "bias": None, "rank_pattern": None, "newer": 1}
        file.write_text("\ufeff" + json.dumps(config), encoding="utf-8")
    ours = realise(attached(base, Adapter(str(one)), Adapter(str(two), "two")), device="cpu")
    with torch.inference_mode():
        assert torch.equal(ours.model(TOKENS).logits, right.model(TOKENS).logits)


def test_whatever_peft_raises_names_the_adapter(base_model: Any, tmp_path: Path) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "a", base, lora())
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "trainable_token_indices": "all"}))
    with pytest.raises(MergeError, match=str(adapter)):
        realise(attached(base, Adapter(str(adapter))), device="cpu")
