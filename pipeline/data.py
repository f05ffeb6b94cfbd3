"""What to train on and to measure with: plain text files, and JSON Lines with one example a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Place
from pipeline.record import Kind, Record, named, record_of

SUFFIXES = (".txt", ".jsonl")

MOST_TOLD = 20
"""Wrong lines that are told one by one; whoever has more will see what they have in common."""


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
    an object with one of the sets of fields in `SHAPES` (record.py); other fields are left out. Raises
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
        lines = [f"line {r.place.line} has {named(r.fields)}" for r in (first, other)]
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
        return record_of(_json(text, place), place) if text.strip() else None
    except InputError as error:
        return error


def _decode(raw: bytes, place: Place) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start} is not UTF-8", where=place, fix="convert the file to UTF-8"
        ) from error


def _json(line: str, place: Place) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(
            f"not JSON: {reason}", where=place, fix="write one JSON object on each line"
        ) from error


def _look_nearby(path: Path) -> str:
    siblings = sorted(p.name for p in path.parent.glob("*") if p.suffix.lower() in SUFFIXES)
    if siblings:
        return f"in that folder there are: {', '.join(siblings[:5])}"
    return "check the path; it is taken from the folder in which you started mergeline"
