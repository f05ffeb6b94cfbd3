"""What an adapter is, and what can be done with it, before it is attached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.blueprint import Adapter
from pipeline.checkpoint.adapter import AdapterCheckpoint, check_finite, inspect_adapter
from pipeline.errors import InputError
from tests.fixtures.folders import (
    LORA,
    LORA_SHAPES,
    TOKENIZER,
    make_adapter,
    make_base,
    write_files,
)


def inspect(folder: Path) -> AdapterCheckpoint:
    return inspect_adapter(Adapter(str(folder)))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        inspect(folder)
    assert caught.value.fix
    return str(caught.value)


def test_describes_an_adapter(tmp_path: Path) -> None:
    found = inspect(make_adapter(tmp_path, files=TOKENIZER))

    assert (found.peft_type, found.rank, found.base_model_name) == ("LORA", 4, "owner/base")
    assert set(found.tensors) == set(LORA_SHAPES)
    assert found.bytes == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert found.why_not_mergeable() is None


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["v_proj", "q_proj"], "q_proj, v_proj"),
        (["layers.0.q_proj", "layers.1.q_proj"], "q_proj"),
        ([f"m{n}" for n in range(9)], "9 kinds of module"),
        ("all-linear", "all-linear"),
        (None, "the usual modules of its architecture"),
    ],
)
def test_tells_the_adapted_modules_in_a_few_words(tmp_path: Path, targets: Any, told: str) -> None:
    assert inspect(make_adapter(tmp_path, target_modules=targets)).targets == told


def test_checkpoints_of_the_training_are_no_part_of_it(tmp_path: Path) -> None:
    trash = {
        "checkpoint-5/x.bin": "",
        "optimizer.pt": "",
        "training_args.bin": "",
        "runs/e": "",
    }

    found = inspect(make_adapter(tmp_path, files={**TOKENIZER, "README.md": "card", **trash}))

    assert set(found.source.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        *TOKENIZER,
    }


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "give the folder that PEFT's"),
        ({"checkpoint-500/adapter_config.json": "{}"}, "in a folder below it: checkpoint-500"),
        ({"adapters.safetensors": ""}, "mlx-lm"),
        ({"pytorch_lora_weights.safetensors": ""}, "diffusers"),
        ({"adapter_model.safetensors": ""}, "copy adapter_config.json beside them"),
        ({"config.json": "{}"}, "this is a whole model"),
    ],
)
def test_a_folder_without_a_config_is_told_for_what_it_is(
    tmp_path: Path, files: dict[str, str], says: str
) -> None:
    message = refusal(write_files(tmp_path, {"x": "", **files}))

    assert "has no adapter_config.json" in message
    assert says in message


def test_a_base_in_place_of_an_adapter_is_told(tmp_path: Path) -> None:
    assert "this is a whole model, not an adapter" in refusal(make_base(tmp_path))


def test_missing_weights_are_told(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "lora.safetensors")

    assert "there is lora.safetensors; PEFT looks for adapter_model.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save would stay whole"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices would stay whole"),
        ({"bias": "all"}, "bias would stay whole"),
        ({"use_dora": True}, "use_dora would stay whole"),
        ({"peft_type": "IA3", "bias": None}, "means nothing for IA3"),
    ],
)
def test_a_weight_is_refused_where_it_would_not_scale_the_whole_effect(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    found = inspect(make_adapter(tmp_path, **changes))

    found.check_weight(1.0)
    with pytest.raises(InputError, match=says):
        found.check_weight(0.5)


def test_a_plain_lora_takes_any_weight(tmp_path: Path) -> None:
    for weight in (0.5, -1.0, 0.0, 3.0):
        inspect(make_adapter(tmp_path)).check_weight(weight)


def test_adapters_of_two_types_are_not_active_together(tmp_path: Path) -> None:
    lora, other = inspect(make_adapter(tmp_path / "a")), inspect(make_adapter(tmp_path / "b"))
    loha = inspect(make_adapter(tmp_path / "c", peft_type="LOHA", lora_alpha=None, alpha=8))

    lora.check_beside([])
    lora.check_beside([other])
    with pytest.raises(InputError, match=r"is LOHA, and .* is LORA") as caught:
        loha.check_beside([lora])
    assert "merge the first one" in str(caught.value)


def test_two_prompts_are_not_active_together(tmp_path: Path) -> None:
    first, second = (
        inspect(make_adapter(tmp_path / name, {"peft_type": "PROMPT_TUNING"})) for name in "ab"
    )

    with pytest.raises(InputError, match="only one adapter of type PROMPT_TUNING"):
        second.check_beside([first])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "changes no weight of the base"),
        ({"peft_type": "PREFIX_TUNING"}, "changes no weight of the base"),
        ({"peft_type": "P_TUNING"}, "changes no weight of the base"),
        ({"peft_type": "ADAPTION_PROMPT"}, "changes no weight of the base"),
        ({"peft_type": "XLORA"}, "anew for every input"),
        ({**LORA, "alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({**LORA, "layer_replication": [[0, 2], [1, 3]]}, "repeats layers"),
    ],
)
def test_says_why_an_adapter_cannot_be_merged_and_what_to_do(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    reason = inspect(make_adapter(tmp_path, config)).why_not_mergeable()

    assert reason is not None
    assert says in reason[0]
    assert "serve it attached" in reason[1]


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def test_reads_safetensors_and_pickles_alike(tmp_path: Path, torch: Any) -> None:
    from safetensors.torch import save_file

    tensors = {name: torch.randn(shape) for name, (_, shape) in LORA_SHAPES.items()}
    safe, pickled = make_adapter(tmp_path / "safe"), make_adapter(tmp_path / "bin")
    save_file(tensors, safe / "adapter_model.safetensors")
    (pickled / "adapter_model.safetensors").unlink()
    torch.save(tensors, pickled / "adapter_model.bin")

    for folder in (safe, pickled):
        found = inspect(folder).read()
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert inspect(pickled).pickle
    assert dict(inspect(pickled).tensors) == {}


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path, torch: Any) -> None:
    folder = make_adapter(tmp_path / "bin")
    (folder / "adapter_model.safetensors").unlink()
    marker = tmp_path / "was run"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    torch.save({"x": Evil()}, folder / "adapter_model.bin")

    with pytest.raises(InputError, match="could run code"):
        inspect(folder).read()
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04broken"])
def test_a_damaged_pickle_is_told(tmp_path: Path, torch: Any, content: bytes) -> None:
    folder = make_adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(content)

    with pytest.raises(InputError, match=r"adapter_model\.bin"):
        inspect(folder).read()


def test_a_pickle_of_something_else_is_told(tmp_path: Path, torch: Any) -> None:
    folder = make_adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    torch.save([1, 2], folder / "adapter_model.bin")

    with pytest.raises(InputError, match="something else than named tensors"):
        inspect(folder).read()


def test_numbers_that_are_none_are_counted(torch: Any) -> None:
    assert check_finite("x", torch.ones(3)) is None
    assert check_finite("x", torch.ones(3, dtype=torch.int8)) is None
    bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0], dtype=torch.bfloat16)
    assert check_finite("lora_A", bad) == "lora_A has 1 NaN and 2 infinite values"
