"""Which module of the base takes each tensor of an adapter, by names and shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from pipeline.accounting.claims import ClaimCounts, check_claims
from pipeline.blueprint import Adapter, Base
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.headers import read_header
from pipeline.errors import InputError, MergeError
from tests.fixtures.folders import (
    BASE_SHAPES,
    LLAMA,
    LORA_SHAPES,
    Q_PROJ,
    Shapes,
    make_adapter,
    make_base,
    write_safetensors,
)
from tests.fixtures.models import ARCHITECTURES

SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": 64,
}


def causal(kind: str, **sizes: Any) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.AutoConfig.for_model(kind, **SMALL, **sizes)
        return transformers.AutoModelForCausalLM.from_config(config)

    return build


MODELS: dict[str, Callable[[], Any]] = {
    **ARCHITECTURES,
    "gemma2": causal("gemma2", num_key_value_heads=2, head_dim=16),
    "phi": causal("phi"),
}
RENAMED = {"gemma3 with vision", "gpt-neox", "llava", "mixtral", "qwen2-vl", "qwen3-moe"}
"""Architectures whose tensors transformers renames or fuses when it loads them."""


def claims(base: Path, adapter: Path) -> ClaimCounts:
    return check_claims(inspect_adapter(Adapter(str(adapter))), inspect_base(Base(str(base))))


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(InputError) as caught:
        claims(base, adapter)
    return str(caught.value)


def save_adapter(model: Any, folder: Path, **options: Any) -> Path:
    peft.get_peft_model(model, peft.LoraConfig(r=4, **options)).save_pretrained(folder)
    return folder


def shapes_of(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (info.dtype, info.shape) for name, info in read_header(file).tensors.items()}


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
@pytest.mark.parametrize("architecture", MODELS)
def test_all_linear_layers_of_an_architecture_take_their_tensors(
    architecture: str, tmp_path: Path
) -> None:
    model = MODELS[architecture]()
    model.save_pretrained(tmp_path / "base")
    targets = ["in_proj"] if "mamba" in architecture else "all-linear"
    flipped = architecture == "gpt2"
    adapter = save_adapter(
        model, tmp_path / "adapter", target_modules=targets, fan_in_fan_out=flipped
    )
    file = adapter / "adapter_model.safetensors"
    shapes = shapes_of(file)

    found = claims(tmp_path / "base", adapter)

    assert found.tensors == len(shapes)
    if architecture not in RENAMED:
        assert found == ClaimCounts(len(shapes), len(shapes) // 2)
    write_safetensors(file, {f"{name[:-14]}x{name[-14:]}": shapes[name] for name in shapes})
    if architecture in RENAMED:
        assert len(claims(tmp_path / "base", adapter).later) == len(shapes)
    else:
        assert "nothing in the base takes base_model.model." in refusal(tmp_path / "base", adapter)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
        {"bias": "all", "lora_bias": True, "target_modules": ["q_proj"]},
        {"modules_to_save": ["lm_head", "input_layernorm"], "target_modules": ["q_proj"]},
        {"trainable_token_indices": [1, 2], "target_modules": ["q_proj"]},
        {"target_parameters": ["q_proj.weight"], "target_modules": []},
        {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_what_a_lora_can_hold_besides_its_factors_is_claimed(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = MODELS["llama"](attention_bias=True)
    model.save_pretrained(tmp_path / "base")
    adapter = save_adapter(model, tmp_path / "adapter", **options)

    found = claims(tmp_path / "base", adapter)

    assert found.tensors == len(shapes_of(adapter / "adapter_model.safetensors"))
    assert found.later == ()


@pytest.mark.parametrize(
    "config",
    [
        peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj"]),
        peft.LoHaConfig(r=4, target_modules=["q_proj"]),
        peft.LoKrConfig(r=4, target_modules=["q_proj"]),
        peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        peft.VeraConfig(r=4, target_modules=["q_proj"]),
        peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj"]),
        peft.HRAConfig(r=4, target_modules=["q_proj"]),
        peft.FourierFTConfig(n_frequency=20, target_modules=["q_proj"]),
        peft.MissConfig(r=4, target_modules=["q_proj"]),
        peft.VBLoRAConfig(r=4, num_vectors=16, vector_length=64, topk=2, target_modules=["q_proj"]),
        peft.TrainableTokensConfig(token_indices=[1, 2], target_modules=["embed_tokens"]),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_tensors_of_other_kinds_find_their_modules(config: peft.PeftConfig, tmp_path: Path) -> None:
    model = MODELS["llama"]()
    model.save_pretrained(tmp_path / "base")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    shapes = shapes_of(file)

    found = claims(tmp_path / "base", tmp_path / "adapter")

    assert found.tensors == len(shapes)
    assert found.modules in (1, 2, 4)
    assert found.later == ()
    if any(".self_attn." in name for name in shapes):
        write_safetensors(
            file, {n.replace("self_attn.q_proj", "attn.qq"): shapes[n] for n in shapes}
        )
        assert "nothing in the base takes" in refusal(tmp_path / "base", tmp_path / "adapter")


@pytest.mark.parametrize(("adapter", "base"), [("bert.", ""), ("", "bert."), ("bert.", "bert.")])
def test_the_name_of_the_inner_model_may_stand_on_either_side_and_norms_have_old_names(
    adapter: str, base: str, tmp_path: Path
) -> None:
    layer, own = "encoder.layer.0", "base_model.model."
    shapes: Shapes = {
        f"{base}{layer}.attention.self.query.weight": ("F32", (64, 64)),
        f"{base}{layer}.output.LayerNorm.gamma": ("F32", (64,)),
        f"{base}{layer}.output.LayerNorm.beta": ("F32", (64,)),
    }
    config = {**LLAMA, "architectures": ["BertModel"], "model_type": "bert"}
    make_base(tmp_path / "base", config, shapes)
    make_adapter(
        tmp_path / "adapter",
        shapes={
            f"{own}{adapter}{layer}.attention.self.query.lora_A.weight": ("F32", (4, 64)),
            f"{own}{adapter}{layer}.attention.self.query.lora_B.weight": ("F32", (64, 4)),
            f"{own}{adapter}{layer}.output.LayerNorm.weight": ("F32", (64,)),
        },
        target_modules=["query"],
    )

    assert claims(tmp_path / "base", tmp_path / "adapter") == ClaimCounts(3, 2)


A, B = (f"base_model.model.{Q_PROJ}.lora_{side}.weight" for side in "AB")


def fit(tmp_path: Path, base: Shapes, adapter: Shapes, **changes: Any) -> tuple[Path, Path]:
    return (
        make_base(tmp_path / "base", shapes={**BASE_SHAPES, **base}),
        make_adapter(tmp_path / "adapter", shapes={**LORA_SHAPES, **adapter}, **changes),
    )


def layers(numbers: range, *parts: str, stack: str = "model.layers") -> Shapes:
    return {f"{stack}.{n}.{part}.weight": ("BF16", (64, 64)) for n in numbers for part in parts}


def factors(*modules: str) -> Shapes:
    return {
        f"base_model.model.{module}.lora_{side}.weight": ("F32", shape)
        for module in modules
        for side, shape in (("A", (4, 64)), ("B", (64, 4)))
    }


OPT: dict[str, Any] = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "num_hidden_layers": 2,
    "dtype": "bfloat16",
}
"""An architecture that is not in the table of those whose tensors are known by name."""


def opt(
    tmp_path: Path, parts: list[str], extra: Shapes | None = None, **changes: Any
) -> tuple[Path, Path]:
    """A base of two layers with q_proj and v_proj, and an adapter with factors for some of `parts`."""
    stack = "model.decoder.layers"
    shapes = layers(range(2), "self_attn.q_proj", "self_attn.v_proj", "fc1", stack=stack)
    config = {**OPT, **changes.pop("config", {})}
    return (
        make_base(tmp_path / "base", config, {**shapes, **(extra or {})}),
        make_adapter(
            tmp_path / "adapter", shapes=factors(*(f"{stack}.{part}" for part in parts)), **changes
        ),
    )


Q = [f"{n}.self_attn.q_proj" for n in range(2)]
V = [f"{n}.self_attn.v_proj" for n in range(2)]


@pytest.mark.parametrize(
    ("parts", "targets", "lacking"),
    [
        (Q, ["q_proj", "v_proj"], "0.self_attn.v_proj, model.decoder.layers.1.self_attn.v_proj"),
        ([Q[0], *V], ["q_proj", "v_proj"], "1.self_attn.q_proj"),
        (Q, r".*\.(0\.self_attn\.v|self_attn\.q)_proj", "0.self_attn.v_proj"),
    ],
)
def test_a_module_that_the_config_targets_and_the_file_lacks_is_refused(
    parts: list[str], targets: list[str] | str, lacking: str, tmp_path: Path
) -> None:
    base, adapter = opt(tmp_path, parts, target_modules=targets)

    with pytest.raises(MergeError, match=r"adapter_config\.json does not belong") as caught:
        claims(base, adapter)

    assert caught.value.what == (
        f"the adapter's file lacks model.decoder.layers.{lacking}, so that part of it was never trained"
    )


def test_tensors_of_a_module_that_the_config_leaves_out_are_refused(tmp_path: Path) -> None:
    base, adapter = opt(tmp_path, [*Q, V[1]], target_modules=["q_proj"])

    with pytest.raises(MergeError) as caught:
        claims(base, adapter)

    where, name = "adapter_config.json", f"base_model.model.model.decoder.layers.{V[1]}.lora"
    assert str(caught.value.where).endswith(where)
    assert caught.value.what == (
        f"its `target_modules` leave out the module of {name}_A.weight, {name}_B.weight"
    )


@pytest.mark.parametrize(
    ("extra", "changes"),
    [
        (layers(range(2), "q_proj", stack="model.mtp.layers"), {}),
        (layers(range(2, 3), "self_attn.q_proj", stack="model.decoder.layers"), {}),
        (layers(range(1), "v_proj", stack="other"), {}),
        ({}, {"config": {"num_hidden_layers": None}, "target_modules": ["q_proj", "fc1"]}),
        ({}, {"target_modules": "all-linear"}),
        ({}, {"layers_to_transform": [0, 1], "target_modules": ["q_proj"]}),
        ({}, {"exclude_modules": ["v_proj"], "target_modules": ["q_proj", "v_proj"]}),
    ],
    ids=[
        *("layers apart", "a layer after the last", "another stack", "no number of layers"),
        *("left to PEFT", "some layers", "excluded"),
    ],
)
def test_what_the_model_need_not_hold_or_the_config_not_mean_may_be_lacking(
    extra: Shapes, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert claims(*opt(tmp_path, Q, extra, **changes)) == ClaimCounts(4, 2)


def test_an_architecture_that_ignores_tensors_of_its_files_is_left_to_the_load(
    tmp_path: Path,
) -> None:
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}

    found = claims(*opt(tmp_path, Q, target_modules=["q_proj", "v_proj"], config=config))

    assert found == ClaimCounts(4, 2)


def test_a_conv1d_layer_is_stored_the_other_way_round(tmp_path: Path) -> None:
    base = {f"{Q_PROJ}.weight": ("BF16", (64, 192))}

    assert claims(*fit(tmp_path, base, {B: ("F32", (192, 4))})) == ClaimCounts(2, 1)


@pytest.mark.parametrize(
    ("tensor", "shape", "said"),
    [
        (A, (4, 128), "its delta is 64 x 128, and"),
        (B, (96, 4), "its delta is 96 x 64, and"),
        (f"base_model.model.{Q_PROJ}.weight", (64, 32), "it is 64 x 32, and"),
    ],
)
def test_tensors_that_cannot_fit_are_told_with_both_shapes(
    tmp_path: Path, tensor: str, shape: tuple[int, ...], said: str
) -> None:
    message = refusal(*fit(tmp_path, {}, {tensor: ("F32", shape)}))

    assert f"{said} {Q_PROJ}.weight of the base is 64 x 64" in message
    assert f"base_model.model.{Q_PROJ}" in message
    assert "owner/base" in message


def test_packed_weights_have_shapes_of_their_own(tmp_path: Path) -> None:
    packed: Shapes = {
        f"{Q_PROJ}.weight": ("U8", (64 * 64 // 2, 1)),
        f"{Q_PROJ}.weight.quant_state.bitsandbytes__nf4": ("U8", (80,)),
    }
    config = {**LLAMA, "quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
    base = make_base(tmp_path / "base", config, packed)

    assert claims(base, make_adapter(tmp_path / "adapter")) == ClaimCounts(2, 1)


def test_all_tensors_of_a_layer_that_the_base_lacks_are_told_with_the_nearest_module(
    tmp_path: Path,
) -> None:
    far = {
        name.replace("layers.0", f"layers.{n}"): s
        for n in (7, 8, 9)
        for name, s in LORA_SHAPES.items()
    }

    message = refusal(*fit(tmp_path, {}, far))

    assert f"{A.replace('layers.0', 'layers.7')}, " in message
    assert "and 2 more; nearest in the base: model.layers.0.self_attn.q_proj" in message


def test_names_that_peft_does_not_write_are_refused(tmp_path: Path) -> None:
    message = refusal(*fit(tmp_path, {}, {"transformer.q.lora_down.weight": ("F32", (4, 64))}))

    assert "nothing in the base takes transformer.q.lora_down.weight" in message


def test_heads_and_parts_that_only_some_layers_hold_are_left_to_the_load(tmp_path: Path) -> None:
    shared = {
        "model.layers.1.shared.mlp.weight": ("BF16", (8, 8)),
        "model.layers.2.a": ("BF16", (1,)),
    }
    mine = [
        "base_model.model.score.weight",
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.2.shared.mlp.lora_A.weight",
    ]

    found = claims(*fit(tmp_path, shared, dict.fromkeys(mine, ("F32", (4, 64)))))

    assert found == ClaimCounts(5, 1, tuple(mine))


def test_repeated_layers_are_not_the_files(tmp_path: Path) -> None:
    far = {name.replace("layers.0", "layers.7"): shape for name, shape in LORA_SHAPES.items()}

    found = claims(*fit(tmp_path, {}, far, layer_replication=[[0, 1], [0, 1]]))

    assert len(found.later) == 2


def test_layers_of_a_base_of_several_models_are_left_to_the_load(tmp_path: Path) -> None:
    far = {name.replace("model.layers", "model.text.layers"): s for name, s in LORA_SHAPES.items()}
    make_base(tmp_path / "base", {**LLAMA, "text_config": {"model_type": "llama"}})
    adapter = make_adapter(tmp_path / "adapter", shapes=far)

    assert len(claims(tmp_path / "base", adapter).later) == 2


def test_a_pickled_adapter_is_left_to_the_load(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, adapter / "adapter_model.bin")

    assert claims(make_base(tmp_path / "base"), adapter) == ClaimCounts(0, 0)
