"""Questions with known answers: the right one of several choices, and text that must match."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from pipeline.data import raise_together
from pipeline.encode import Example, encode_continuation, pad_token
from pipeline.errors import InputError
from pipeline.proof.figures import Figures
from pipeline.proof.loss import score
from pipeline.proof.write import Writer
from pipeline.record import Record

AROUND = "\"'`*_()[]{}<>\u2018\u2019\u201c\u201d\u00ab\u00bb"
"""Quotation marks, brackets and emphasis, in which a word may stand."""

AFTER = ".,;:!?"
"""May end a word. Kept at its beginning, where it may belong to a number: `.5`."""


def choose(
    records: Sequence[Record],
    writer: Writer,
    *,
    window: int,
    chat: bool,
    batch_size: int,
    done: Callable[[float], object],
) -> Figures:
    """How often the right choice is the likeliest, given the question.

    `acc` goes by the log-likelihood of the whole choice, `acc_norm` by that of a character of it, as
    the lm-evaluation-harness defines both; where choices are equally likely, the first one is taken.
    `done` is told how many choices are scored.
    """
    examples = _choices(records, writer, window, chat)
    scores = iter(
        score(
            writer.model,
            writer.task,
            examples,
            batch_size=batch_size,
            pad_id=pad_token(writer.tokenizer),
            done=done,
        )
    )
    right = right_by_character = 0
    answers: list[dict[str, Any]] = []
    lost: list[str] = []
    for record in records:
        choices = [choice.strip() for choice in record.fields["choices"]]
        answer = record.fields["answer"]
        wanted = answer if isinstance(answer, int) else choices.index(answer.strip())
        of_choices = list(islice(scores, len(choices)))
        likelihoods = [found.likelihood for found in of_choices]
        if any(found.lost for found in of_choices):
            lost.append(f"line {record.place.line}")
        chosen = _greatest(likelihoods)
        right += chosen == wanted
        right_by_character += wanted == _greatest(
            [total / len(choice) for total, choice in zip(likelihoods, choices, strict=True)]
        )
        answers.append(
            {
                "line": record.place.line,
                "question": record.fields["question"],
                "answer": choices[wanted],
                "chosen": choices[chosen],
                "right": chosen == wanted,
                "log_likelihoods": [n if math.isfinite(n) else str(n) for n in likelihoods],
            }
        )
    values = {"acc": right / len(records), "acc_norm": right_by_character / len(records)}
    return Figures(values, {"questions": len(records)}, answers=tuple(answers), lost=tuple(lost))


def answer(
    records: Sequence[Record],
    writer: Writer,
    *,
    window: int,
    chat: bool,
    max_new_tokens: int,
    done: Callable[[float], object],
) -> Figures:
    """How often the first line that the model writes, greedily, is a right answer once `normalised`.

    `done` is told of each prompt.
    """
    prompts = _prompts(records, writer, window - max_new_tokens, chat)
    answers: list[dict[str, Any]] = []
    lost: list[str] = []
    for record, prompt in zip(records, prompts, strict=True):
        text, is_lost = writer.answer(prompt, max_new_tokens=max_new_tokens, is_chat=chat)
        if is_lost:
            lost.append(f"line {record.place.line}")
        known = record.fields["answer"]
        known = known if isinstance(known, list) else [known]
        right = normalised(first_line(text)) in {normalised(a) for a in known}
        answers.append(
            {
                "line": record.place.line,
                "prompt": record.fields["prompt"],
                "answer": known,
                "text": text,
                "right": right,
            }
        )
        done(1)
    matches = sum(entry["right"] for entry in answers)
    values = {"exact_match": matches / len(records)}
    return Figures(values, {"prompts": len(records)}, answers=tuple(answers), lost=tuple(lost))


def first_line(text: str) -> str:
    """The first line that is not blank; empty where there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def normalised(text: str) -> str:
    """A text without what does not make an answer another one.

    Compatibility forms and case are folded, white space is one space, and quotation marks, brackets
    and the punctuation after a word are dropped: `"Paris."` is `paris`, while `-3.5` stays. A text of
    nothing else stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = [word.rstrip(AROUND + AFTER).lstrip(AROUND) for word in folded.split()]
    return " ".join(word for word in words if word) or folded.strip()


def _choices(records: Sequence[Record], writer: Writer, window: int, chat: bool) -> list[Example]:
    """Each choice of each question, in order."""
    examples: list[Example] = []
    wrong: list[InputError] = []
    for record in records:
        question = record.text("question").strip()
        context = writer.as_chat(question) if chat else question
        space = "" if chat else " "
        made = [
            encode_continuation(
                context, space + choice.strip(), writer.tokenizer, writer.task, special=not chat
            )
            for choice in record.fields["choices"]
        ]
        wrong += _too_long(record, max(len(e.input_ids) for e in made), window)
        examples += made
    raise_together(wrong, records[0].place.file)
    return examples


def _prompts(records: Sequence[Record], writer: Writer, room: int, chat: bool) -> list[str]:
    """What is sent to the model."""
    prompts: list[str] = []
    wrong: list[InputError] = []
    for record in records:
        prompt = record.text("prompt")
        prompts.append(writer.as_chat(prompt) if chat else prompt)
        tokens = writer.tokenizer(prompts[-1], add_special_tokens=not chat, verbose=False)
        wrong += _too_long(record, len(tokens["input_ids"]), room)
    raise_together(wrong, records[0].place.file)
    return prompts


def _too_long(record: Record, tokens: int, room: int) -> list[InputError]:
    if tokens <= room:
        return []
    return [
        InputError(
            f"has {tokens} tokens, and there is room for {max(room, 0)}",
            where=record.place,
            fix="shorten it; or raise `window`, as far as the model can see",
        )
    ]


def _greatest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
