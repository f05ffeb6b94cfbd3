"""Hashes of large files that have not changed, kept from run to run in the user's cache folder."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.checkpoint.identity import Identity, identity
from pipeline.checkpoint.publish import write_atomic
from pipeline.errors import OutputError

log = logging.getLogger("mergeline")

LEAST_BYTES = 1 << 20
"""Smaller files are hashed sooner than they are looked up."""
MOST_LINES = 4000
_SETTLED_NS = 2_000_000_000
"""A file that was changed a moment ago could change again under the same time: such clocks tick."""
_HASH = re.compile(r"[0-9a-f]{64}")


class Remembered:
    """The file `hashes.jsonl`: a line for each hashed file, the last one for a path counts.

    Many runs may use it at once: lines are appended whole, and a line that is lost or broken costs
    no more than hashing that file again.
    """

    def __init__(self) -> None:
        self._file = cache_folder() / "hashes.jsonl"
        self._lines: list[str] = []
        with suppress(OSError, UnicodeDecodeError):
            self._lines = self._file.read_text(encoding="utf-8").split("\n")
        self._known = dict(found for line in self._lines if (found := _parse(line)))

    def hash_of(self, file: Identity) -> str | None:
        """The hash (hex) of a file that is the one it was, or None."""
        return self._known.get(file)

    def keep(self, hashes: Mapping[Identity, str]) -> None:
        """Remember the hashes of files as they were before they were hashed."""
        now = time.time_ns()
        lines = [
            json.dumps([*who, found])
            for who, found in hashes.items()
            if who.bytes >= LEAST_BYTES
            and now - who.changed_ns > _SETTLED_NS
            and identity(Path(who.path)) == who
        ]
        if not lines:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if len(self._lines) + len(lines) > MOST_LINES:
                self._lines = self._lines[-MOST_LINES // 2 :] + lines
                write_atomic(self._file, "\n".join(self._lines) + "\n")
            else:
                # After half a line of somebody who was killed, too.
                _append(self._file, "\n".join(["", *lines, ""]))
        except (OSError, OutputError) as error:
            log.info("hashes are not remembered: %s", error)


def cache_folder() -> Path:
    """Where this program may keep what can be made again."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "mergeline"


def _append(file: Path, text: str) -> None:
    """In one call, which the system does not mix with those of others."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _parse(line: str) -> tuple[Identity, str] | None:
    try:
        match json.loads(line):
            case [str(path), int(size), int(modified), int(status), int(inode), str(found)]:
                if _HASH.fullmatch(found):
                    return Identity(path, size, modified, status, inode), found
    except ValueError:
        pass
    return None
