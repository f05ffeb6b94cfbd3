"""Text to train on and to measure with: plain text files, and JSON Lines with one example a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Place

SUFFIXES = (".txt", ".jsonl")

SHAPES: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("prompt", "completion"),
    ("messages",),
    ("input", "target"),
    ("text", "label"),
)
"""The sets of fields that an example may have."""


@dataclass(frozen=True)
class Record:
    """One example of a data file, its fields checked, and where it stands."""

    fields: Mapping[str, Any]
    place: Place

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
    InputError, with file and line, for the first line that is not.
    """
    check_data_file(path)
    records = list(islice(_examples(path), limit))
    if not records:
        raise InputError("the data file holds no example", where=path, fix="write at least one")
    return records


def _examples(path: Path) -> Iterator[Record]:
    if path.suffix.lower() == ".txt":
        text = _decode(path.read_bytes(), Place(str(path)))
        if text.strip():
            yield Record({"text": text}, Place(str(path)))
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = Place(str(path), number)
            text = _decode(line, place)
            if text.strip():
                yield Record(_fields(text, place), place)


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
        names = ", ".join(f"`{name}`" for name in value) or "nothing"
        shapes = "; ".join(" + ".join(f"`{name}`" for name in shape) for shape in SHAPES)
        raise InputError(
            f"the example has the fields {names}", where=place, fix=f"it must have one of: {shapes}"
        )
    if "messages" in value and ("messages",) in wanted:
        _check_messages(value["messages"], place)
    return {name: value[name] for shape in wanted for name in shape}


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
