"""Errors on the terminal: short, coloured where there is a terminal, on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from pipeline.errors import MergelineError, Problem
from pipeline.secrets import redact_text

_RED, _BOLD, _DIM, _PLAIN = "\033[31m", "\033[1m", "\033[2m", "\033[0m"


def print_problems(problems: Sequence[Problem]) -> None:
    """All that is wrong with a recipe and its arguments."""
    for problem in problems:
        place = f"{_styled(str(problem.place), _BOLD)}: " if problem.place else ""
        key = f"{_styled(problem.key, _RED)}: " if problem.key else ""
        _print(f"{place}{key}{problem.what}", problem.fix)
    count = len(problems)
    _write(f"{count} problem{'s' * (count != 1)}; nothing was run")


def print_error(error: MergelineError) -> None:
    """Why a run, or the reading of one, failed."""
    where = f"{_styled(error.where, _BOLD)}: " if error.where else ""
    _print(f"{_styled('error', _RED)}: {where}{error.what}", error.fix)


def print_bug(error: BaseException) -> None:
    """An error that should not have come to the user."""
    what = f"{type(error).__name__}: {error}"
    fix = "this is a fault in Mergeline; the same command with --debug shows where"
    _print(f"{_styled('unexpected error', _RED)}: {what}", fix)


def _print(what: str, fix: str | None) -> None:
    _write(what)
    if fix:
        _write(_styled(f"    {fix}", _DIM))


def _write(text: str) -> None:
    # What a file or an argument says must not be able to steer the terminal.
    kept = "".join(c if c.isprintable() or c in "\n\033" else repr(c)[1:-1] for c in text)
    with suppress(OSError):  # whoever reads it may be gone; the exit code still tells
        print(redact_text(kept), file=sys.stderr)


def _styled(text: str | None, style: str) -> str:
    text = (text or "").replace("\033", "")
    coloured = (
        sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    )
    return f"{style}{text}{_PLAIN}" if coloured else text
