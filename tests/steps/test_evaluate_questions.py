"""Questions with known answers: choices, and text that must match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError, Refused
from tests.fixtures.examples import QUESTIONS, by_hand, lines
from tests.fixtures.session import Session

Write = Callable[[str, str], str]


def test_the_right_choice_is_the_likeliest_one_by_hand(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    base = base_model("llama", dtype="float32")
    session.do("load_base", model=str(base))
    found = session.do("evaluate", data=write("q.jsonl", lines(*QUESTIONS)), batch_size=2)
    acc, acc_norm = [], []
    answers = (session.run.dir / "evaluate.jsonl").read_text(encoding="utf-8").splitlines()
    for question, said in zip(QUESTIONS, map(json.loads, answers), strict=True):
        choices = [choice.strip() for choice in question["choices"]]
        prompt = question["question"].strip()
        by_choice = [-by_hand(base, f" {choice}", prompt)[0] for choice in choices]
        by_character = [x / len(c) for x, c in zip(by_choice, choices, strict=True)]
        right = 1 if question["answer"] == 1 else 0
        acc.append(by_choice.index(max(by_choice)) == right)
        acc_norm.append(by_character.index(max(by_character)) == right)
        assert said["log_likelihoods"] == pytest.approx(by_choice, rel=1e-5)
        assert (said["right"], said["answer"]) == (acc[-1], choices[right])
    assert found.metrics == {
        "acc": sum(acc) / 3,
        "acc_norm": sum(acc_norm) / 3,
        "questions": 3,
    }
    assert [output.path for output in found.outputs] == ["evaluate.jsonl"]


def test_an_encoder_decoder_chooses_by_its_target(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    base = base_model("t5", dtype="float32")
    session.do("load_base", model=str(base), task="seq2seq_lm")
    session.do("evaluate", data=write("q.jsonl", lines(QUESTIONS[0])))
    (said,) = (session.run.dir / "evaluate.jsonl").read_text(encoding="utf-8").splitlines()
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    expected = []
    for choice in (" Eight", " Four legs"):
        labels = tokenizer(choice, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            asked = tokenizer("How many legs has a spider?", return_tensors="pt")
            expected.append(-model(**asked, labels=labels).loss.item() * labels.numel())
    assert json.loads(said)["log_likelihoods"] == pytest.approx(expected, rel=1e-5)


def test_an_answer_matches_when_it_is_what_the_model_writes(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = base_model("llama", dtype="float32")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    ids = tokenizer("What is the capital?", return_tensors="pt")["input_ids"]
    written = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    text = tokenizer.decode(written, skip_special_tokens=True)
    first = next(line for line in text.splitlines() if line.strip())
    examples = [
        {"prompt": "What is the capital?", "answer": [f' "{first.upper()}."', "Paris"]},
        {"prompt": "What is the capital?", "answer": "Paris"},
    ]
    session.do("load_base", model=str(base))
    data = write("a.jsonl", lines(*examples))
    found = session.do("evaluate", data=data, max_new_tokens=4)
    assert found.metrics == {"exact_match": 0.5, "prompts": 2}
    answers = (session.run.dir / "evaluate.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(a)["right"] for a in answers] == [True, False]
    assert json.loads(answers[0])["text"] == text


def test_questions_and_prompts_that_do_not_fit_are_all_named(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    long = "Load the base. " * 9
    asked = write("q.jsonl", lines(*({**QUESTIONS[0], "question": q} for q in (long, "a", long))))
    with pytest.raises(InputError, match="2 examples are wrong") as caught:
        session.do("evaluate", data=asked, window=24)
    assert f"{asked}:1: has " in caught.value.what
    assert f"{asked}:3: has " in caught.value.what
    prompt = write("p.jsonl", lines({"prompt": "Load the base.", "answer": "a"}))
    with pytest.raises(InputError, match="there is room for 4") as caught:
        session.do("evaluate", data=prompt, window=24, max_new_tokens=20)
    assert caught.value.where == f"{prompt}:1"


def test_chat_puts_questions_into_the_template(
    session: Session, write: Write, base_model: Callable[..., Path], tmp_path: Path
) -> None:
    from tests.fixtures.models import build_base, build_tokenizer

    base = build_base(tmp_path / "base", dtype="float32")
    asked = write("q.jsonl", lines(QUESTIONS[0]))
    session.do("load_base", model=str(base))
    with pytest.raises(InputError, match="no chat template"):
        session.do("evaluate", data=asked, chat=True)
    build_tokenizer(base, chat=True)
    session.run.release()
    session.do("evaluate", data=asked, chat=True)
    (said,) = (session.run.dir / "evaluate.jsonl").read_text(encoding="utf-8").splitlines()
    prompt = "<|user|>How many legs has a spider?\n<|assistant|>"
    by_choice = [-by_hand(base, choice, prompt)[0] for choice in ("Eight", "Four legs")]
    assert json.loads(said)["log_likelihoods"] == pytest.approx(by_choice, rel=1e-5)


def test_a_classifier_answers_no_questions(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("bert")), task="sequence_classification")
    with pytest.raises(Refused, match="a classification model answers no questions"):
        session.describe("evaluate", data=write("q.jsonl", lines(*QUESTIONS)))
