"""Parts of a folder that do not fit each other: config, tokenizer, index, headers, shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pipeline.proof.tensors import find_tensors
from pipeline.receipt.record import FILE_NAME
from tests.fixtures.models import build_tokenizer
from tests.fixtures.verified import Made, edit, places, shards, verify, without_receipt


def test_a_left_over_quantization_config_is_found(made: Made, folder: Path) -> None:
    quantized = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit(folder / "config.json", lambda config: config.update(quantization_config=quantized))

    assert any("says that the weights are in fp4" in f.what for f in verify(folder).faults)
    assert places(without_receipt(folder, made)) == {"config.json"}


def test_a_tokenizer_of_the_wrong_size_is_found(made: Made, folder: Path) -> None:
    build_tokenizer(folder, extra=tuple(f"<new {n}>" for n in range(100)))

    what = "makes tokens up to 358, and model.embed_tokens.weight has 320 rows"
    assert what in [fault.what for fault in verify(folder).faults]
    assert "tokenizer.json" in places(without_receipt(folder, made))


def test_a_tokenizer_of_another_model_is_found(made: Made, folder: Path) -> None:
    build_tokenizer(folder, extra=("<other>",))

    found = without_receipt(folder, made)

    assert "tokenizer.json" in places(found)


def test_an_embedding_that_does_not_fit_the_config_is_found(made: Made, folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(vocab_size=400))

    assert {fault.what for fault in without_receipt(folder, made).faults} == {
        "says vocab_size 400, and model.embed_tokens.weight has 320 rows",
        "says vocab_size 400, and base and adapters make 320",
    }


def test_a_tie_that_the_weights_do_not_keep_is_found(made: Made, folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(tie_word_embeddings=True))

    assert places(without_receipt(folder, made)) == {"lm_head.weight", "config.json"}


def test_a_dtype_that_no_tensor_has_is_found(made: Made, folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(dtype="float16"))
    (folder / FILE_NAME).unlink()

    assert places(verify(folder)) == {"config.json"}


def test_a_config_with_defaults_left_out_or_written_out_is_the_same(
    made: Made, folder: Path
) -> None:
    edit(folder / "config.json", lambda config: config.pop("hidden_act"))
    edit(
        folder / "config.json",
        lambda config: config.update(num_return_sequences=1, use_cache=False),
    )

    assert without_receipt(folder, made).faults == []


def test_a_generation_config_that_says_other_things_is_found(made: Made, folder: Path) -> None:
    edit(folder / "generation_config.json", lambda config: config.update(eos_token_id=7))

    assert places(without_receipt(folder, made)) == {"generation_config.json"}


def test_missing_and_strange_tensors_are_found(made: Made, folder: Path) -> None:
    file = find_tensors(str(folder))["model.norm.weight"].file
    tensors = load_file(file)
    tensors["strange.weight"] = tensors.pop("model.norm.weight").clone()
    save_file(tensors, file, {"format": "pt"})

    found = without_receipt(folder, made)

    assert f"{file.name}: strange.weight" in places(found)
    assert f"{file.name}: model.norm.weight" in places(found)


@pytest.mark.parametrize(
    ("key", "change", "what"),
    [
        (
            "model.layers.1.mlp.up_proj.weight",
            lambda tensor: tensor.T.contiguous(),
            "is 64 x 128, and 128 x 64 in the model that config.json describes",
        ),
        (
            "lm_head.weight",
            lambda tensor: tensor[:-1].clone(),
            "is 319 x 64, and 320 x 64 in the model that config.json describes",
        ),
    ],
)
def test_tensors_of_another_shape_than_the_config_says_are_found(
    folder: Path, key: str, change: Callable[[Any], Any], what: str
) -> None:
    """Also without a receipt, and where neither base nor adapter is at hand."""
    file = find_tensors(str(folder))[key].file
    tensors = load_file(file)
    save_file({**tensors, key: change(tensors[key])}, file, {"format": "pt"})
    (folder / FILE_NAME).unlink()

    assert [(fault.where, fault.what) for fault in verify(folder).faults] == [(key, what)]


def test_sizes_that_the_config_leaves_to_the_architecture_are_those_of_transformers(
    folder: Path,
) -> None:
    (folder / FILE_NAME).unlink()
    edit(folder / "config.json", lambda config: config.pop("num_key_value_heads"))
    edit(folder / "config.json", lambda config: config.pop("head_dim", None))

    faults = verify(folder).faults

    assert {fault.where.rpartition(".self_attn.")[2] for fault in faults} == {
        "k_proj.weight",
        "v_proj.weight",
    }
    edit(folder / "config.json", lambda config: config.update(num_key_value_heads=2))
    assert verify(folder).faults == []


def test_a_missing_shard_and_one_too_many_are_found(folder: Path) -> None:
    *_, last = shards(folder)
    last.rename(folder / "model-00099-of-00099.safetensors")

    found = verify(folder)

    assert {last.name, "model-00099-of-00099.safetensors"} <= places(found)
    assert any("names files that are missing" in fault.what for fault in found.faults)


def test_a_damaged_header_is_found(folder: Path) -> None:
    first = shards(folder)[0]
    first.write_bytes(first.read_bytes()[:-1])

    found = verify(folder)

    assert any("when it was written" in f.what and f.where == first.name for f in found.faults)
