"""A file of jobs: one row of overrides for each, as CSV or as lines of JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import COMMAND_LINE, Place, Problem, RecipeError
from pipeline.recipe.grid import Row, quoted


def read_rows(path: Path) -> list[Row]:
    """The rows of a `.csv` or `.jsonl` file.

    In CSV, the first line has the keys, a cell is what stands after `key=` on a command line, and an empty
    cell leaves its key alone. In JSON, a line is an object of keys and plain values. Raises RecipeError.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if path.suffix not in readers:
        fix = f"its name must end in {' or '.join(readers)}"
        raise RecipeError([Problem(f"what {path} holds is not known", fix, "--jobs", COMMAND_LINE)])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror}"
        raise RecipeError([Problem(what, None, "--jobs", COMMAND_LINE)]) from error
    except UnicodeDecodeError as error:
        fix = "save it with the encoding UTF-8"
        raise RecipeError([Problem("is not UTF-8 text", fix, None, Place(str(path)))]) from error
    rows = list(readers[path.suffix](text, str(path)))
    if not rows:
        raise RecipeError([Problem("has no rows", "one row is one job", None, Place(str(path)))])
    return rows


def _csv(text: str, file: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""))
    keys = [key.strip() for key in next(reader, [])]
    for cells in reader:
        place = Place(file, reader.line_num)
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(keys):
            what = f"has {len(cells)} cells, and there are {len(keys)} keys in the first line"
            fix = "put a cell that has a comma of its own in double quotes"
            raise RecipeError([Problem(what, fix, None, place)])
        pairs = zip(keys, cells, strict=True)
        yield Row(tuple(f"{key}={cell.strip()}" for key, cell in pairs if cell.strip()), place)


def _jsonl(text: str, file: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        place = Place(file, number)
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RecipeError([Problem(f"is not JSON: {error}", None, None, place)]) from error
        if not isinstance(row, dict):
            fix = 'write {"save.dtype": "float16"}'
            raise RecipeError([Problem("is no object of keys and values", fix, None, place)])
        yield Row(tuple(f"{key}={_override_value(value)}" for key, value in row.items()), place)


def _override_value(value: Any) -> str:
    """A value of JSON in the grammar of overrides."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_override_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{quoted(key)}:{_override_value(one)}" for key, one in value.items())
        return f"{{{','.join(pairs)}}}"
    return json.dumps(value)
