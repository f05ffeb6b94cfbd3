"""Read a JSON object that came from elsewhere, with errors that say what the file is instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

LFS_MARK = b"version https://git-lfs.github.com/spec/"


def parse_object(data: bytes, *, where: object) -> dict[str, Any]:
    """The JSON object in `data`; `where` is named in the InputError when there is none."""
    refuse_lfs_pointer(data, where=where)
    if not data.strip():
        raise InputError("the file is empty", where=where, fix="copy or download it again")
    try:
        parsed = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(
            "is not text (UTF-8), so not JSON", where=where, fix=_again(where)
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            where=where,
            fix=_again(where),
        ) from None
    except (RecursionError, ValueError) as error:  # of numbers with thousands of digits
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"is not usable JSON: {what}", where=where, fix=_again(where)) from None
    if not isinstance(parsed, dict):
        kind = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
        raise InputError(
            f"holds {kind.get(type(parsed), 'a number')}, where an object {{...}} is expected",
            where=where,
            fix=_again(where),
        )
    return parsed


def refuse_lfs_pointer(data: bytes, *, where: object) -> None:
    """InputError when the bytes are git-LFS's stand-in for a file."""
    if data.startswith(LFS_MARK):
        raise InputError(
            "is a git-LFS pointer, not the file itself",
            where=where,
            fix="run `git lfs pull` in that folder, or download the file from the Hub",
        )


def _again(where: object) -> str:
    return f"look at {Path(str(where)).name} in an editor, or copy or download it again"
