"""Paths that match patterns."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def matching(include: Iterable[str], exclude: Sequence[str] = ()) -> list[str]:
    """What some pattern matches and none of `exclude`, whole or by its name; `step-9` before `step-10`."""
    found = {path for pattern in include for path in glob.glob(pattern, recursive=True)}
    kept = [
        path
        for path in found
        if not any(
            fnmatch.fnmatch(name, pattern)
            for pattern in exclude
            for name in (path, Path(path).name)
        )
    ]
    return sorted(kept, key=_by_number)


def _by_number(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path)]
