"""Proofs on many prompts: memory holds the logits of few of them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from pipeline.blueprint import Base
from pipeline.proof import logits, whole
from tests.fixtures.models import VOCAB, build_adapter
from tests.fixtures.session import Session, merge

PROMPTS = [f"text {number} of many" for number in range(40)]


def held() -> int:
    """Tensors of logits in memory."""
    found = (one for one in gc.get_objects() if type(one) is torch.Tensor)
    return sum(one.dim() == 2 and one.shape[-1] == VOCAB for one in found)


def counting(function: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
    """The same function, which notes how many logits there are when it begins and when it ends."""

    def counted(*given: Any, **named: Any) -> Any:
        counts.append(held())
        result = function(*given, **named)
        counts.append(held())
        return result

    return counted


def test_logits_of_many_prompts_are_not_in_memory_together(
    base_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(whole, "compare", counting(whole.compare, counts))
    monkeypatch.setattr(whole, "histogram", counting(whole.histogram, counts))
    base = base_model("llama")
    config = LoraConfig(r=8, target_modules="all-linear")
    session = Session(tmp_path / "run")
    merge(session, base, build_adapter(tmp_path / "lora", base, config, scale=0.15))

    record = session.do("verify", proof="model", prompts=PROMPTS)

    assert record.metrics["positions"] > len(PROMPTS)  # type: ignore[operator]
    assert max(counts) < 6
    assert not list(tmp_path.glob("run/.verify*"))


def test_the_clean_process_holds_the_logits_of_few_prompts(
    base_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(logits, "continuations", counting(logits.continuations, counts))
    request = logits.Request(
        Base(str(base_model("llama"))), "cpu", str(tmp_path / "out"), prompts=tuple(PROMPTS)
    )

    found = logits.answer(request)

    assert len(list(found.logits)) == len(PROMPTS)
    assert max(counts) < 6
