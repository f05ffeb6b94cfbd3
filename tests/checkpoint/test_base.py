"""What a base is, from its config, its file names and the headers of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.blueprint import Base, Quantization
from pipeline.checkpoint import transformers_types
from pipeline.checkpoint.base import BaseCheckpoint, inspect_base
from pipeline.errors import InputError
from tests.fixtures.folders import (
    BASE_SHAPES,
    LLAMA,
    Q_PROJ,
    make_adapter,
    make_base,
    write_files,
    write_safetensors,
)

WILD = Path(__file__).parents[1] / "fixtures" / "wild" / "bases"
NEEDS_CODE = {"baichuan-1.json", "chatglm-1.json"}
NO_DTYPE = {"gpt2-1.json"}
WARNS = {"llava-1.json": "LlavaLlamaForCausalLM"}


def inspect(folder: Path, **options: Any) -> BaseCheckpoint:
    return inspect_base(Base(str(folder), **options))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        inspect(folder, **options)
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(path.name for path in WILD.glob("*.json")))
def test_configs_of_real_bases(name: str, tmp_path: Path) -> None:
    config = json.loads((WILD / name).read_text())
    folder = make_base(tmp_path, config)

    if name in NEEDS_CODE:
        assert "comes with its own Python code" in refusal(folder)
        assert inspect(folder, trust_remote_code=True).custom_code
        return
    found = inspect(folder)

    assert found.model_type == config["model_type"]
    said = config.get("torch_dtype") or config.get("text_config", {}).get("dtype")
    assert found.dtype == (said or "bfloat16")
    assert (said is None) == (name in NO_DTYPE)
    assert found.quantization is None
    assert [WARNS[name] in warning for warning in found.warnings] == [True] * (name in WARNS)


def test_knows_the_model_types_that_transformers_itself_has() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert all(transformers_types.knows_model_type(kind) for kind in CONFIG_MAPPING_NAMES)
    assert not transformers_types.knows_model_type("chatglm")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "is not the config of a transformers model"),
        ({"architectures": ["X"]}, "names no `model_type`"),
        ({"_class_name": "Flux", "_diffusers_version": "0.30"}, "belongs to diffusers"),
        ({"model_type": "lama"}, "did you mean 'llama'?"),
        ({"model_type": 3}, "is not the config"),
    ],
)
def test_a_config_that_is_no_models_is_told(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    assert says in refusal(make_base(tmp_path, config))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"adapter_config.json": "{}"}, "this is an adapter"),
        ({"model_index.json": "{}"}, "diffusers pipeline"),
        ({"sub/config.json": "{}"}, "did you mean its sub-folder sub?"),
        ({"model-q4.gguf": ""}, "llama.cpp"),
        ({"params.json": "{}", "consolidated.00.pth": ""}, "publisher's own format"),
        ({}, "give the folder that holds config.json"),
    ],
)
def test_a_folder_without_a_config_is_told_for_what_it_is(
    tmp_path: Path, files: dict[str, str], says: str
) -> None:
    assert says in refusal(write_files(tmp_path, {"x": "", **files}))


def test_an_adapter_in_place_of_a_base_is_told(tmp_path: Path) -> None:
    assert "this is an adapter" in refusal(make_adapter(tmp_path))


FOUR = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
}
NF4_SHAPES = {
    f"{Q_PROJ}.weight": ("U8", (2048, 1)),
    f"{Q_PROJ}.weight.absmax": ("U8", (64,)),
    f"{Q_PROJ}.weight.quant_state.bitsandbytes__nf4": ("U8", (20,)),
    "model.norm.weight": ("BF16", (64,)),
}
INT8_SHAPES = {f"{Q_PROJ}.weight": ("I8", (64, 64)), f"{Q_PROJ}.SCB": ("F32", (64,))}


def test_a_base_saved_in_4_bit_is_described(tmp_path: Path) -> None:
    found = inspect(make_base(tmp_path, {**LLAMA, "quantization_config": FOUR}, NF4_SHAPES))

    assert found.quantization == Quantization("nf4", True, "uint8", "bfloat16", saved=True)


def test_a_base_saved_in_8_bit_is_described(tmp_path: Path) -> None:
    config = {**LLAMA, "quantization_config": {"load_in_8bit": True}}

    found = inspect(make_base(tmp_path, config, INT8_SHAPES))

    assert found.quantization == Quantization("int8", saved=True)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "mxfp4", "compressed-tensors", "hqq"])
def test_other_quantizations_are_refused_by_name(tmp_path: Path, method: str) -> None:
    message = refusal(
        make_base(tmp_path, {**LLAMA, "quantization_config": {"quant_method": method}})
    )

    assert f"is quantized with {method}" in message
    assert "use the original base" in message


def test_a_left_over_quantization_config_is_told(tmp_path: Path) -> None:
    message = refusal(make_base(tmp_path, {**LLAMA, "quantization_config": FOUR}))

    assert "says that the weights are in nf4, and they are not" in message
    assert "remove the left-over `quantization_config`" in message


def test_a_quantization_that_is_switched_off_is_none(tmp_path: Path) -> None:
    off = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False}

    assert inspect(make_base(tmp_path, {**LLAMA, "quantization_config": off})).quantization is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"dtype": None, "torch_dtype": "float32"}, "float32"),
        ({"dtype": "torch.float16"}, "float16"),
        ({"dtype": None, "text_config": {"dtype": "float16"}}, "float16"),
        ({"dtype": None}, "bfloat16"),
        ({"dtype": "float64"}, "bfloat16"),
    ],
)
def test_the_dtype_is_what_the_config_says_or_else_what_most_bytes_are(
    tmp_path: Path, said: dict[str, Any], expected: str
) -> None:
    shapes = {
        **BASE_SHAPES,
        "other": ("F32", (64,)),
        "another": ("F32", (8,)),
        "third": ("F32", (8,)),
    }

    assert inspect(make_base(tmp_path, {**LLAMA, **said}, shapes)).dtype == expected


def shards(folder: Path, weight_map: dict[str, Any], **parts: tuple[str, ...]) -> Path:
    """A base in shards: part name -> tensors."""
    make_base(folder)
    (folder / "model.safetensors").unlink()
    for part, names in parts.items():
        write_safetensors(folder / f"{part}.safetensors", dict.fromkeys(names, ("BF16", (4, 4))))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    weight_map = {"a": "two.safetensors", "b": "one.safetensors", "c": "one.safetensors"}

    found = inspect(shards(tmp_path, weight_map, one=("b", "c"), two=("a",)))

    assert found.weight_files == ("one.safetensors", "two.safetensors")
    assert set(found.tensors) == {"a", "b", "c"}
    assert "model.safetensors.index.json" in found.source.files
    assert found.weight_bytes == sum(
        (tmp_path / name).stat().st_size for name in found.weight_files
    )


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({}, "has no `weight_map`"),
        ([], "has no `weight_map`"),
        ({"a": "gone.safetensors"}, "names files that are missing: gone.safetensors"),
        ({"a": "../one.safetensors"}, "points outside the folder for a"),
        ({"a": "/etc/passwd"}, "points outside the folder for a"),
        ({"a": "C:\\x.safetensors"}, "points outside the folder for a"),
        ({"a": 7}, "names no file for a"),
        ({"a": "one.safetensors", "z": "one.safetensors"}, "names 1 tensors that are in none"),
    ],
)
def test_an_index_that_is_wrong_is_told(tmp_path: Path, weight_map: Any, says: str) -> None:
    message = refusal(shards(tmp_path, weight_map, one=("a",)))

    assert says in message
    assert "model.safetensors.index.json" in message


def test_a_tensor_in_two_files_is_told(tmp_path: Path) -> None:
    folder = shards(
        tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one=("a",), two=("a", "b")
    )
    message = refusal(folder)
    assert "two.safetensors: a: is in one.safetensors too" in message


def test_damaged_weights_are_found_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = make_base(tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])

    assert "model.norm.weight: ends at byte" in refusal(folder)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "expected model.safetensors"),
        ({"model-00001-of-00002.safetensors": ""}, "no model.safetensors.index.json"),
        ({"x.gguf": ""}, "llama.cpp"),
        ({"tf_model.h5": ""}, "TensorFlow or Flax"),
        ({"weights.safetensors": ""}, "there is weights.safetensors"),
    ],
)
def test_missing_weights_are_told(tmp_path: Path, files: dict[str, str], says: str) -> None:
    folder = make_base(tmp_path, files=files)
    (folder / "model.safetensors").unlink()

    assert says in refusal(folder)


def test_pickles_are_refused_unless_allowed(tmp_path: Path) -> None:
    folder = make_base(tmp_path, {**LLAMA, "dtype": None}, files={"pytorch_model.bin": "x"})
    assert not inspect(folder).pickle, "safetensors come first"
    assert "pytorch_model.bin" not in inspect(folder).source.files
    (folder / "model.safetensors").unlink()

    assert "allow_pickle: true" in refusal(folder)
    found = inspect(folder, allow_pickle=True)

    assert found.pickle
    assert found.weight_files == ("pytorch_model.bin",)
    assert (found.dtype, dict(found.tensors)) == ("float32", {})


def test_a_config_with_code_of_a_known_model_needs_no_trust(tmp_path: Path) -> None:
    config = {**LLAMA, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}

    assert inspect(make_base(tmp_path, config)).custom_code


def test_a_changed_folder_is_read_anew(tmp_path: Path) -> None:
    assert inspect(make_base(tmp_path)).dtype == "bfloat16"
    assert inspect(make_base(tmp_path, {**LLAMA, "dtype": "float16"})).dtype == "float16"


@pytest.mark.parametrize(
    ("architectures", "name"),
    [
        (["LlamaForCausalLM"], "LlamaForCausalLM"),
        ("LlamaForCausalLM", "LlamaForCausalLM"),
        ([], "llama"),
        (None, "llama"),
        ([1], "llama"),
    ],
)
def test_the_architecture_has_a_name_whatever_the_config_says(
    architectures: Any, name: str, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", {**LLAMA, "architectures": architectures})

    assert inspect_base(Base(str(base))).architecture == name
