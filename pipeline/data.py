"""What to train on and to measure with: plain text files, and JSON Lines with one example a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError, Place

SUFFIXES = (".txt", ".jsonl")

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

MOST_TOLD = 20
"""Wrong lines that are told one by one; whoever has more will see what they have in common."""


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


def check_data_file(path: Path) -> None:
    """See, without reading it, that a data file is there and of a known kind. Raises InputError."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"a data file ends in {' or '.join(SUFFIXES)}, this one in {path.suffix or 'nothing'!r}",
            where=path,
            fix="rename it, or write one JSON object a line with the field `text`",
        )
    if not path.exists():
        raise InputError("there is no such data file", where=path, fix=_look_nearby(path))
    if not path.is_file():
        raise InputError("this is not a file", where=path, fix="name one .txt or .jsonl file")
    if path.stat().st_size == 0:
        raise InputError("the data file is empty", where=path, fix="write at least one example")


def read_records(path: Path, limit: int | None = None) -> list[Record]:
    """Examples of a data file, in order, at most `limit` of them.

    A .txt file is one example with the field `text`. In a .jsonl file each line that is not blank is
    an object with one of the sets of fields in `SHAPES`; other fields are left out. Raises
    InputError with every line that is not.
    """
    check_data_file(path)
    examples = list(islice(_examples(path), limit))
    raise_together([e for e in examples if isinstance(e, InputError)], path)
    records = [e for e in examples if isinstance(e, Record)]
    if not records:
        raise InputError("the data file holds no example", where=path, fix="write at least one")
    return records


def kind_of(records: Sequence[Record]) -> Kind:
    """What the examples of a file are for. Raises InputError when it is not the same for all."""
    first = records[0]
    other = next((record for record in records if record.kind != first.kind), None)
    if other is not None:
        lines = [f"line {r.place.line} has {_names(r.fields)}" for r in (first, other)]
        raise InputError(
            f"its examples are of several kinds: {' and '.join(lines)}",
            where=first.place.file,
            fix="put each kind into a file of its own, and measure each with a step of its own",
        )
    return first.kind


def raise_together(errors: Sequence[InputError], path: Path | str) -> None:
    """Raise one error that tells all that is wrong with a data file; nothing when nothing is."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        told = [str(error).replace("\n", "\n    ") for error in errors[:MOST_TOLD]]
        if len(errors) > MOST_TOLD:
            told.append(f"and {len(errors) - MOST_TOLD} more")
        raise InputError(
            "\n    ".join([f"{len(errors)} examples are wrong:", *told]),
            where=path,
            fix="mend these lines, or take them out",
        )


def _examples(path: Path) -> Iterator[Record | InputError]:
    if path.suffix.lower() == ".txt":
        text = _decode(path.read_bytes(), Place(str(path)))
        if text.strip():
            yield Record({"text": text}, Place(str(path)))
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            example = _example(line, Place(str(path), number))
            if example is not None:
                yield example


def _example(line: bytes, place: Place) -> Record | InputError | None:
    """What a line holds, or what is wrong with it; None for a blank one."""
    try:
        text = _decode(line, place)
        return _checked(Record(_fields(text, place), place)) if text.strip() else None
    except InputError as error:
        return error


def _decode(raw: bytes, place: Place) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start} is not UTF-8", where=place, fix="convert the file to UTF-8"
        ) from error


def _fields(line: str, place: Place) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(
            f"not JSON: {reason}", where=place, fix="write one JSON object on each line"
        ) from error
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
            f"the example has the fields {_names(value)}",
            where=place,
            fix=f"it must have one of: {shapes}",
        )
    return {name: value[name] for shape in wanted for name in shape}


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in fields) or "nothing"


def _checked(record: Record) -> Record:
    if record.has("messages"):
        _check_messages(record.fields["messages"], record.place)
    if record.kind == "choices":
        _check_choices(record)
    if record.kind == "answer":
        record.text("prompt")
        _check_answers(record.fields["answer"], record.place)
    return record


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


def _look_nearby(path: Path) -> str:
    siblings = sorted(p.name for p in path.parent.glob("*") if p.suffix.lower() in SUFFIXES)
    if siblings:
        return f"in that folder there are: {', '.join(siblings[:5])}"
    return "check the path; it is taken from the folder in which you started mergeline"
