"""A model that gives NaN in place of predictions is told of, and where it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.fixtures.examples import lines
from tests.fixtures.models import build_adapter
from tests.fixtures.session import Session

BAD = "?"
"""A token whose embedding is NaN."""


@pytest.fixture
def base(base_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A model that gives NaN once it has read the bad token, and numbers before."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(base_model("llama", dtype="float32"), tmp_path / "base")
    (token,) = AutoTokenizer.from_pretrained(folder)(BAD, add_special_tokens=False)["input_ids"]
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][token] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        (
            [{"text": "merge the adapter"}, {"text": "merge? the adapter"}],
            [
                "the model gives NaN in place of predictions for example 2 of 2",
                "of the model, loss, perplexity cannot be told: not a finite number came out",
            ],
        ),
        (
            [
                {"question": "merge", "choices": ["Paris", "Rome"], "answer": 0},
                {"question": "merge?", "choices": ["Paris", "Rome"], "answer": 0},
            ],
            ["the model gives NaN in place of predictions for line 2"],
        ),
        (
            [{"prompt": "merge?", "answer": "a"}] * 5,
            ["the model gives NaN in place of predictions for line 1, line 2, line 3 and 2 more"],
        ),
        ([{"text": "merge the adapter"}], []),
    ],
    ids=["texts", "choices", "answers", "not read"],
)
def test_nan_is_told_with_the_examples_that_gave_it(
    session: Session, base: Path, tmp_path: Path, examples: list[dict[str, Any]], said: list[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(lines(*examples))
    session.do("load_base", model=str(base))

    record = session.do("evaluate", data=str(data))

    assert record.warnings == said
    for answers in session.run.dir.glob("*.jsonl"):
        for line in answers.read_text().splitlines():
            json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_nan_of_the_base_is_told_apart_from_that_of_the_model(
    session: Session, base: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    healthy = build_adapter(tmp_path / "adapter", base, config)
    weights = healthy / "adapter_model.safetensors"
    tensors = {key: tensor.nan_to_num() for key, tensor in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"text": "merge? the adapter"}))
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(healthy))

    record = session.do("evaluate", data=str(data), compare="base")

    assert record.metrics["base.loss"] == "nan"
    assert record.warnings[0] == "the base gives NaN in place of predictions for example 1 of 1"
    assert not any("the model" in text for text in record.warnings)


def test_a_text_that_nan_wrote_is_told(session: Session, base: Path) -> None:
    session.do("load_base", model=str(base))

    record = session.do("generate", prompts=["merge", "merge?"], max_new_tokens=2)

    assert record.warnings == ["the model gives NaN in place of predictions after 'merge?'"]
