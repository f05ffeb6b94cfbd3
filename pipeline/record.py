"""One example of a data file: which fields it may have, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import InputError, Place

SHAPES: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("prompt", "completion"),
    ("messages",),
    ("input", "target"),
    ("text", "label"),
    ("question", "choices", "answer"),
    ("prompt", "answer"),
)
"""The sets of fields that an example may have."""

Kind = Literal["text", "choices", "answer"]
"""What an example is for: to be known well, to have its right choice found, to be answered."""


@dataclass(frozen=True)
class Record:
    """One example of a data file, its fields checked, and where it stands."""

    fields: Mapping[str, Any]
    place: Place

    @property
    def kind(self) -> Kind:
        """What the example is for; a text to know before an answer to give."""
        if self.has("choices"):
            return "choices"
        return "answer" if set(self.fields) == {"prompt", "answer"} else "text"

    def has(self, *names: str) -> bool:
        """Whether the example has all of these fields."""
        return all(name in self.fields for name in names)

    def text(self, name: str) -> str:
        """A field that must be a string. Raises InputError."""
        value = self.fields[name]
        if not isinstance(value, str):
            raise InputError(
                f"`{name}` must be text, got {_kind(value)}",
                where=self.place,
                fix="put the value in double quotes",
            )
        return value


def record_of(value: Any, place: Place) -> Record:
    """The example that a line holds, with the fields that `SHAPES` names. Raises InputError."""
    if not isinstance(value, dict):
        raise InputError(
            f"an example must be a JSON object, got {_kind(value)}",
            where=place,
            fix='for example {"text": "..."}',
        )
    wanted = [shape for shape in SHAPES if all(value.get(name) is not None for name in shape)]
    if not wanted:
        shapes = "; ".join(" + ".join(f"`{name}`" for name in shape) for shape in SHAPES)
        raise InputError(
            f"the example has the fields {named(value)}",
            where=place,
            fix=f"it must have one of: {shapes}",
        )
    record = Record({name: value[name] for shape in wanted for name in shape}, place)
    if record.has("messages"):
        _check_messages(record.fields["messages"], place)
    if record.kind == "choices":
        _check_choices(record)
    if record.kind == "answer":
        record.text("prompt")
        _check_answers(record.fields["answer"], place)
    return record


def named(fields: Mapping[str, Any]) -> str:
    """The names of fields, for a message."""
    return ", ".join(f"`{name}`" for name in fields) or "nothing"


def _check_choices(record: Record) -> None:
    choices, answer = record.fields["choices"], record.fields["answer"]
    if not record.text("question").strip():
        raise InputError("`question` is empty", where=record.place, fix="write the question")
    right = isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)
    if not right or len({c.strip() for c in choices}) != len(choices) or len(choices) < 2:
        raise InputError(
            "`choices` must be a list of two or more different texts",
            where=record.place,
            fix='for example ["Paris", "Rome"]',
        )
    if answer not in (range(len(choices)) if type(answer) is int else choices):
        raise InputError(
            f"`answer` is none of the choices: {answer!r}",
            where=record.place,
            fix=f"give the text of the right one, or its number from 0 to {len(choices) - 1}",
        )


def _check_answers(answer: Any, place: Place) -> None:
    known = answer if isinstance(answer, list) else [answer]
    if not known or not all(isinstance(a, str) and a.strip() for a in known):
        raise InputError(
            "`answer` must be a text, or a list of texts of which any is right",
            where=place,
            fix='for example "Paris", or ["8", "eight"]',
        )
    if any(len(a.strip().splitlines()) > 1 for a in known):
        raise InputError(
            "`answer` has several lines, and only the first line that the model writes is compared",
            where=place,
            fix="ask for an answer of one line",
        )


def _check_messages(messages: Any, place: Place) -> None:
    right = (
        isinstance(messages, list)
        and len(messages) > 0
        and all(
            isinstance(m, dict)
            and isinstance(m.get("role"), str)
            and isinstance(m.get("content"), str)
            for m in messages
        )
    )
    if not right:
        raise InputError(
            "`messages` must be a list of objects with the texts `role` and `content`",
            where=place,
            fix='for example [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
        )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
