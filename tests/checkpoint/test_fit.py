"""Whether an adapter belongs to a base, by name and revision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.blueprint import Adapter, Base
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.fit import doubts_about_base
from tests.fixtures.folders import LLAMA, make_adapter, make_base


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
