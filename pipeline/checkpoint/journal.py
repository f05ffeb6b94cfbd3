"""The files of a folder that are finished, noted in it so that the same work can go on where it was killed.

A hidden file in the partial folder that `publishing` gives: first a line with the key of the work, then a
line for each file, written after that file is on disk. docs/decisions/009 says what the key stands on.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from pipeline.checkpoint.beside import leftovers, target_of

FILE_NAME = ".mergeline-journal"


@dataclass(frozen=True)
class Finished:
    """A file that is written and on disk."""

    name: str
    bytes: int
    blake3: str
    changed: tuple[str, ...]
    """Keys of its tensors that have other bits than the base's."""


class Journal:
    """What is finished of the work in one folder."""

    def __init__(self, folder: Path, key: str, finished: Iterable[Finished] = ()) -> None:
        self.finished = {entry.name: entry for entry in finished}
        self._file = folder / FILE_NAME
        self._lock = Lock()
        # Written anew: the last line of a run that was killed may be half a line.
        lines = [json.dumps({"key": key}), *(_line(entry) for entry in self.finished.values())]
        fresh = self._file.with_suffix(".new")
        fresh.write_text("\n".join([*lines, ""]), encoding="utf-8")
        fresh.replace(self._file)

    def add(self, entry: Finished) -> None:
        """Note a file that is on disk. From any thread."""
        with self._lock, open(self._file, "a", encoding="utf-8") as file:
            file.write(_line(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
            self.finished[entry.name] = entry


def clear_leftovers(folder: Path) -> None:
    """Remove what earlier runs left beside the target of a partial folder."""
    for other in leftovers(target_of(folder), "partial"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def tidy(folder: Path) -> bool:
    """Remove from a partial folder all that is not noted as finished; False if nothing is."""
    noted = {entry.name for entry in read_journal(folder)[1]}
    if noted:
        keep_only(folder, {FILE_NAME, *noted})
    return bool(noted)


def has_finished(folder: Path) -> bool:
    """Whether a partial folder holds anything that a later run could use."""
    return bool(read_journal(folder)[1])


def read_journal(folder: Path) -> tuple[str | None, list[Finished]]:
    """Key and finished files, as the journal says; without a sound journal, nothing."""
    file = folder / FILE_NAME
    key, finished = None, []
    with suppress(OSError, UnicodeDecodeError):
        lines = file.read_text(encoding="utf-8").split("\n") if is_own_file(file) else []
        for line in lines:
            match _object(line):
                case {"key": str(found)}:
                    key = found
                case {
                    "name": str(name),
                    "bytes": int(size),
                    "blake3": str(digest),
                    "changed": [*changed],
                }:
                    finished.append(Finished(name, size, digest, tuple(map(str, changed))))
    return key, finished


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _line(entry: Finished) -> str:
    return json.dumps(asdict(entry))


def keep_only(folder: Path, names: set[str]) -> None:
    """Remove all else from a folder."""
    for entry in folder.iterdir():
        if entry.name in names:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def is_own_folder(path: Path) -> bool:
    """Whether it is this user's: others could lay out work for us where many may write."""
    return _is_own(path, stat.S_ISDIR)


def is_own_file(path: Path) -> bool:
    """The same of a file."""
    return _is_own(path, stat.S_ISREG)


def _is_own(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return is_kind(found.st_mode) and found.st_uid == os.geteuid()
