"""The errors that Mergeline raises on purpose.

    MergelineError
    |-- RecipeError            the recipe or the arguments are wrong; nothing was run (exit 2)
    |-- Refused                one step of a recipe cannot be done as asked (becomes a Problem)
    `-- RunError               the run failed (exit 1)
        |-- InputError         a base, adapter or data file is missing, damaged or not what it should be
        |-- MergeError         the merge would be wrong: NaN, unclaimed tensors, nothing changed
        |-- OutputError        the result cannot be written where it should go
        `-- VerificationError  the saved model is not the model that was trained

Every message has three parts: where, what is wrong, what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, order=True)
class Place:
    """A position in a recipe file or on the command line."""

    file: str
    """Path of the file as the user gave it, or `command line`."""
    line: int | None = None
    """One-based; None where a line means nothing."""
    column: int | None = None

    def __str__(self) -> str:
        parts = [self.file, *(str(n) for n in (self.line, self.column) if n is not None)]
        return ":".join(parts)


COMMAND_LINE = Place("command line")


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is, what is wrong, what to do."""

    what: str
    fix: str | None = None
    key: str | None = None
    """Dotted name as the user would override it, for example `save.dtype`."""
    place: Place | None = None

    def at(self, place: Place | None, key: str | None = None) -> Problem:
        """The same problem with its place and key filled in where they were missing."""
        return replace(self, place=self.place or place, key=self.key or key)

    def __str__(self) -> str:
        head = ": ".join(str(part) for part in (self.place, self.key, self.what) if part)
        return f"{head}\n    {self.fix}" if self.fix else head


class MergelineError(Exception):
    """Root of the tree. `what` is wrong, `where`, and how to `fix` it."""

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n    {self.fix}" if self.fix else head

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(kind: type[MergelineError], fields: dict[str, Any]) -> MergelineError:
    """Errors cross process borders in sweeps, and keyword-only fields do not pickle by themselves."""
    error = kind.__new__(kind)
    Exception.__init__(error, fields.get("what", ""))
    error.__dict__.update(fields)
    return error


class RecipeError(MergelineError):
    """All that is wrong with a recipe and its arguments, found before anything was run."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problem{'s' * (len(problems) != 1)}")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Refused(MergelineError):
    """A step says, before anything is loaded, that it cannot do what its settings ask.

    `key` is the option at fault, if one is. `otherwise` is the state with which planning goes on so
    that the mistakes of later steps are found too; without it, the state before the step.
    """

    def __init__(
        self, what: str, *, fix: str | None = None, key: str | None = None, otherwise: Any = None
    ) -> None:
        super().__init__(what, fix=fix)
        self.key = key
        self.otherwise = otherwise


class RunError(MergelineError):
    """The recipe was right, and the run failed."""


class InputError(RunError):
    """A file that goes in is missing, damaged, unsafe to read, or not what it should be."""


class MergeError(RunError):
    """The merged model would not be what the adapter's training made."""


class OutputError(RunError):
    """The result cannot be written where it should go."""


class VerificationError(RunError):
    """The saved model does not do what the base and its adapters do."""


def is_interruption(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or came of it: a library that is cut short may fail while it tidies up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
