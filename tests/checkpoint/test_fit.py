"""Whether an adapter belongs to a base: by name, revision and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.blueprint import Adapter, Base
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.fit import check_shapes, doubts_about_base
from pipeline.errors import InputError
from tests.fixtures.folders import BASE_SHAPES, LLAMA, LORA_SHAPES, Q_PROJ, make_adapter, make_base


def doubts(tmp_path: Path, named: str | None, model: str, **config: Any) -> list[str]:
    base = make_base(tmp_path / "base", {**LLAMA, **config})
    adapter = make_adapter(tmp_path / "adapter", base_model_name_or_path=named)
    found = inspect_base(Base(str(base)))
    return doubts_about_base(inspect_adapter(Adapter(str(adapter))), Base(model), found)


@pytest.mark.parametrize(
    ("named", "model"),
    [
        (None, "./anything"),
        ("", "./anything"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/workspace/models/Llama-3.1-8B/", "/home/me/Llama-3.1-8B"),
        ("C:\\models\\Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("unsloth/Llama-3.1-8B-bnb-4bit", "/models/llama-3.1-8b"),
    ],
)
def test_the_same_name_raises_no_doubt(tmp_path: Path, named: str | None, model: str) -> None:
    assert doubts(tmp_path, named, model) == []


def test_another_name_is_told(tmp_path: Path) -> None:
    (text,) = doubts(tmp_path, "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B")

    assert (
        "was trained on 'meta-llama/Llama-3.1-8B', and the base is 'meta-llama/Llama-3.2-1B'"
        in text
    )


@pytest.mark.parametrize(
    "named",
    ["unsloth/Llama-3.1-8B-bnb-4bit", "unsloth/Llama-3.1-8B-unsloth-bnb-4bit", "me/Llama-3.1-8B"],
)
def test_a_copy_of_the_same_model_is_told_more_softly(tmp_path: Path, named: str) -> None:
    (text,) = doubts(tmp_path, named, "meta-llama/Llama-3.1-8B")

    assert "by its name another copy of" in text


def test_a_folder_that_remembers_its_name_is_known_by_it(tmp_path: Path) -> None:
    assert doubts(tmp_path, "owner/base", "./renamed", _name_or_path="owner/base") == []


def fits(tmp_path: Path, base: dict[str, Any], adapter: dict[str, Any], **changes: Any) -> None:
    folder = make_adapter(tmp_path / "adapter", shapes={**LORA_SHAPES, **adapter}, **changes)
    found = inspect_base(Base(str(make_base(tmp_path / "base", shapes={**BASE_SHAPES, **base}))))
    check_shapes(inspect_adapter(Adapter(str(folder))), found)


A, B = (f"base_model.model.{Q_PROJ}.lora_{side}.weight" for side in "AB")


def test_matrices_that_fit_pass(tmp_path: Path) -> None:
    fits(tmp_path, {}, {})
    fits(tmp_path, {f"{Q_PROJ}.weight": ("BF16", (32, 64))}, {B: ("F32", (32, 4))})


def test_a_conv1d_layer_is_stored_the_other_way_round(tmp_path: Path) -> None:
    fits(tmp_path, {f"{Q_PROJ}.weight": ("BF16", (64, 192))}, {B: ("F32", (192, 4))})


@pytest.mark.parametrize(
    ("adapter", "delta"), [({A: ("F32", (4, 128))}, "64 x 128"), ({B: ("F32", (96, 4))}, "96 x 64")]
)
def test_matrices_that_cannot_fit_are_told_with_both_shapes(
    tmp_path: Path, adapter: dict[str, Any], delta: str
) -> None:
    with pytest.raises(InputError) as caught:
        fits(tmp_path, {}, adapter)

    message = str(caught.value)
    assert f"its delta is {delta}, and {Q_PROJ}.weight of the base is 64 x 64" in message
    assert A in message
    assert "owner/base" in message


def test_the_inner_models_keys_are_found_without_its_name(tmp_path: Path) -> None:
    shapes = {Q_PROJ.removeprefix("model.") + ".weight": ("BF16", (32, 32))}
    folder = make_adapter(tmp_path / "adapter")
    found = inspect_base(Base(str(make_base(tmp_path / "base", shapes=shapes))))

    with pytest.raises(InputError, match="of the base is 32 x 32"):
        check_shapes(inspect_adapter(Adapter(str(folder))), found)


def test_what_loading_resizes_or_renames_is_left_to_it(tmp_path: Path) -> None:
    head = {
        "base_model.model.lm_head.lora_A.weight": ("F32", (4, 64)),
        "base_model.model.lm_head.lora_B.weight": ("F32", (130, 4)),
        "base_model.model.elsewhere.lora_A.weight": ("F32", (4, 7)),
        "base_model.model.elsewhere.lora_B.weight": ("F32", (7, 4)),
    }

    fits(tmp_path, {"lm_head.weight": ("BF16", (128, 64))}, head)
