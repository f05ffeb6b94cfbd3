"""What checks of a folder find: what is wrong, what was looked at, and what could not be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InputError, MergeError, VerificationError


@dataclass(frozen=True)
class Fault:
    """Something that is not as it should be."""

    where: str
    """File of the folder, with the tensor where it is one."""
    what: str


@dataclass
class Findings:
    """Grows from check to check."""

    faults: list[Fault] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    """What was looked at, in words; it held unless there are faults."""
    skipped: list[str] = field(default_factory=list)
    """What was not looked at, and why."""
    changed: list[str] = field(default_factory=list)
    """What is not as it was when the folder was made."""

    def fault(self, where: str, what: str) -> None:
        self.faults.append(Fault(where, what))

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What is wrong with an input, or with a merge, is a fault, and ends the block."""
        try:
            yield
        except (InputError, MergeError, VerificationError) as error:
            self.fault(error.where or "", error.what)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        return {
            "holds": not self.faults,
            "faults": [vars(fault) for fault in self.faults],
            "checked": self.checked,
            "not_checked": self.skipped,
            "changed_since": self.changed,
        }
