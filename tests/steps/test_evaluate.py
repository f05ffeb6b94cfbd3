from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import InputError, Refused
from tests.fixtures.session import Session

Write = Callable[[str, str], str]


def lines(*examples: dict[str, Any]) -> str:
    return "".join(json.dumps(example) + "\n" for example in examples)


def by_hand(base: Path, text: str, prompt: str = "") -> tuple[float, int]:
    """Sum of the negative log-likelihoods of `text` after `prompt`, and its tokens, one at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    before = tokenizer(prompt)["input_ids"] if prompt else []
    ids = before + tokenizer(text)["input_ids"]
    total = 0.0
    for i in range(max(1, len(before)), len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:i]])).logits[0, -1].double()
        total -= logits.log_softmax(-1)[ids[i]].item()
    return total, len(ids) - max(1, len(before))


def test_loss_is_the_mean_over_all_tokens_whatever_the_batches(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    base = base_model("llama", dtype="float32")
    texts = ["Load the base, attach the adapter", "merge", "be sure that it is the one you trained"]
    data = write("data.jsonl", lines(*({"text": text} for text in texts)))
    session.do("load_base", model=str(base))
    found = session.do("evaluate", data=data, batch_size=2).metrics
    expected = [by_hand(base, text) for text in texts]
    total, tokens = sum(e[0] for e in expected), sum(e[1] for e in expected)
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_only_the_completion_is_measured(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    base = base_model("llama", dtype="float32")
    data = write("data.jsonl", lines({"prompt": "What is the capital?", "completion": " Paris."}))
    session.do("load_base", model=str(base))
    found = session.do("evaluate", data=data).metrics
    total, tokens = by_hand(base, " Paris.</s>", prompt="What is the capital?")
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_an_encoder_decoder_is_measured_on_its_target(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    base = base_model("t5", dtype="float32")
    pairs = [
        ("Load the base", "merge"),
        ("a recipe lists the steps", "What is the capital of France?"),
    ]
    data = write("data.jsonl", lines(*({"input": a, "target": b} for a, b in pairs)))
    session.do("load_base", model=str(base), task="seq2seq_lm")
    found = session.do("evaluate", data=data).metrics
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    total, tokens = 0.0, 0
    for source, target in pairs:
        labels = tokenizer(target + "</s>", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            mean = model(**tokenizer(source, return_tensors="pt"), labels=labels).loss.item()
        total, tokens = total + mean * labels.numel(), tokens + labels.numel()
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_a_classifier_is_measured_by_accuracy_too(
    session: Session, write: Write, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tests.fixtures.models import build_base

    base = build_base(tmp_path / "bert", "bert", dtype="float32")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).eval()
    model.save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = ["Load the base", "merge", "Paris", "a spider has eight legs"]
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(t, return_tensors="pt")).logits for t in texts])
    labels = [*logits.argmax(-1).tolist()[:3], int(logits[3].argmin())]
    data = write(
        "d.jsonl", lines(*({"text": t, "label": k} for t, k in zip(texts, labels, strict=True)))
    )
    session.do("load_base", model=str(base), task="sequence_classification")
    found = session.do("evaluate", data=data).metrics
    assert found["accuracy"] == 0.75
    assert found["examples"] == 4
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert found["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_missing_data_file_is_refused_before_the_run(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused, match="no such data file") as caught:
        session.describe("evaluate", data="nowhere.jsonl")
    assert caught.value.key == "data"


def test_data_that_an_earlier_step_will_write_is_not_looked_for(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    session.describe("evaluate", data=str(session.run.dir / "generate.jsonl"))


def test_bad_lines_are_named_together_before_the_run(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    data = write("data.jsonl", '{"text": "a"}\n{"txt": "b"}\n{"text": "c"')
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused, match="2 examples are wrong") as caught:
        session.describe("evaluate", data=data)
    assert f"{data}:2: the example has the fields `txt`" in caught.value.what
    assert f"{data}:3: not JSON" in caught.value.what
    assert caught.value.key == "data"


def test_a_model_of_speech_cannot_be_measured_on_text(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("whisper")), task="speech_seq2seq")
    with pytest.raises(Refused, match="speech_seq2seq"):
        session.describe("evaluate", data=write("a.txt", "words"))


def test_examples_without_a_token_to_predict_are_an_error(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(InputError, match="no token of it can be measured"):
        session.do("evaluate", data=write("a.jsonl", lines({"text": "a"})))
