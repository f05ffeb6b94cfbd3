"""The ledger of a sweep: one append-only file of JSON lines, from which everything about it can be told.

Any number of processes may write it, and any may read it meanwhile. A line that was torn when its writer
was killed is passed over, and does not spoil the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline import secrets
from pipeline.errors import InputError, OutputError
from pipeline.manifest import Figure

FILE_NAME = "ledger.jsonl"

Name = Annotated[str, Field(pattern=r"^[\w+-][\w.+-]*$")]
"""Of a folder in the sweep's own folder; nothing that leads out of it."""

Ending = Literal["done", "failed", "interrupted"]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    time: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Listed(BaseModel):
    """A job as a sweep begins."""

    model_config = ConfigDict(extra="forbid")

    job: str
    overrides: list[str]
    folder: Name
    done: bool = False


class SweepLine(_Line):
    """A sweep began or ended."""

    event: Literal["sweep"] = "sweep"
    status: Literal["running"] | Ending
    recipe: str
    overrides: list[str] = []
    """As typed."""
    jobs: list[Listed] = []
    """Those that are known, in order; at the beginning only."""


class AddedLine(_Line):
    """More jobs, which a search has chosen."""

    event: Literal["added"] = "added"
    jobs: list[Listed]


class PassLine(_Line):
    """A pass over a base, which writes the weights of several jobs before they begin, began or ended."""

    event: Literal["pass"] = "pass"
    status: Literal["running"] | Ending
    base: str
    folders: list[Name]
    """Of the jobs."""
    why: str = ""
    """Why it came to no end."""


class JobLine(_Line):
    """A job began or ended."""

    event: Literal["job"] = "job"
    job: str
    """Fingerprint of its resolved recipe."""
    folder: Name
    status: Literal["running"] | Ending
    seconds: float | None = None
    why: str = ""
    """Why it is not done."""
    metrics: dict[str, Figure] = {}


Line = SweepLine | AddedLine | PassLine | JobLine
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="event")])


class Ledger:
    """The ledger in a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE_NAME

    def append(self, line: Line) -> None:
        """Add a line, whole and on disk before this returns. Raises OutputError."""
        data = secrets.redact(line.model_dump(mode="json", exclude_defaults=True))
        data |= {"event": line.event, "time": line.time.isoformat()}
        text = json.dumps(data, ensure_ascii=False).encode() + b"\n"
        try:
            handle = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                end = os.lseek(handle, 0, os.SEEK_END)
                if end and os.pread(handle, 1, end - 1) != b"\n":
                    text = b"\n" + text  # whoever wrote last was killed within a line
                while text:
                    text = text[os.write(handle, text) :]
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot be written: {reason}", where=self.file) from error

    def bytes(self) -> int:
        """Its size, which tells whether anybody has written."""
        return self.file.stat().st_size if self.file.exists() else 0

    def read(self) -> list[Line]:
        """All lines that are whole, the oldest first; none where there is no ledger yet."""
        return self.read_on(0)[0]

    def read_on(self, start: int) -> tuple[list[Line], int]:
        """The lines that are whole from a byte on, and the byte to go on from. Raises InputError."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(start)
                data = stream.read()
        except FileNotFoundError:
            return [], start
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=self.file) from error
        data = data[: data.rfind(b"\n") + 1]
        lines = []
        for line in data.decode("utf-8", errors="replace").split("\n"):
            try:
                lines.append(_LINE.validate_json(line))
            except ValidationError:
                continue
        return lines, start + len(data)


def attempts(lines: Sequence[Line]) -> dict[str, dict[str, JobLine]]:
    """The last line of each attempt at each job: fingerprint -> folder -> line, the newest attempt last."""
    found: dict[str, dict[str, JobLine]] = {}
    for line in lines:
        if isinstance(line, JobLine):
            found.setdefault(line.job, {})[line.folder] = line
    return found
