"""Find the files of a base or an adapter: a folder on this machine, or a repository on the Hub."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.checkpoint import hub
from pipeline.checkpoint.headers import Header, parse_header, read_header
from pipeline.checkpoint.textjson import parse_object, refuse_lfs_pointer
from pipeline.errors import InputError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_READ = (".json", ".safetensors", ".bin", ".pt", ".model", ".txt", ".jinja", ".py")
_MOST_FILES = 20_000
_AT_ONCE = 16
"""Requests to the Hub at a time: a base of 200 shards answers in seconds, and the Hub is not stormed."""


@dataclass(frozen=True)
class Source:
    """The files of one base or adapter, named relative to its folder or repository."""

    reference: str
    """As the user gave it."""
    folder: Path | None
    """The local folder; None for a repository of the Hub."""
    repo: str | None
    commit: str | None
    """The commit that the revision stood for when it was looked up."""
    files: Mapping[str, int]
    """Name -> bytes."""

    def fetch(self, patterns: Sequence[str] | None = None) -> Path:
        """A local folder that holds the files (those that match one of the glob `patterns`).

        Files of the Hub are downloaded into its cache, at the pinned commit. Raises InputError.
        """
        if self.folder is not None:
            return self.folder
        assert self.repo is not None
        assert self.commit is not None
        names = [name for name in self.files if patterns is None or _matches(name, patterns)]
        return hub.download(self.repo, self.commit, names)

    def to_download(self) -> tuple[Path, int] | None:
        """The Hub's cache and the bytes that a fetch of all files would add to it; None for a folder."""
        if self.repo is None or self.commit is None:
            return None
        cache, missing = hub.not_cached(self.repo, self.commit, list(self.files))
        return cache, sum(self.files[name] for name in missing)

    def only(self, names: Iterable[str]) -> Source:
        """The same source with those of the named files that it has."""
        return replace(self, files={name: self.files[name] for name in names if name in self.files})

    def where(self, name: str) -> str:
        """How to name one of the files to the user."""
        return str(self.folder / name) if self.folder is not None else f"{self.repo}/{name}"

    def read_bytes(self, name: str) -> bytes | None:
        """A small file's content, or None when there is no such file."""
        if name not in self.files:
            return None
        return (self.fetch([_literal(name)]) / name).read_bytes()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file's object, or None when there is no such file. Raises InputError."""
        data = self.read_bytes(name)
        return None if data is None else parse_object(data, where=self.where(name))

    def read_header(self, name: str) -> Header:
        """The header of a safetensors file, without its tensors. Raises InputError."""
        if self.folder is not None:
            return read_header(self.folder / name)
        assert self.repo is not None
        assert self.commit is not None
        return _remote_header(self.repo, self.commit, name, self.files[name])

    def read_headers(self, names: Sequence[str]) -> list[Header]:
        """The headers of several files, in their order; those of the Hub are asked for side by side."""
        if self.folder is not None:
            return [self.read_header(name) for name in names]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.read_header, names))


@cache
def _remote_header(repo: str, commit: str, name: str, size: int) -> Header:
    """Kept for the process: at one commit, a file does not change."""
    data = hub.read_safetensors_header(repo, commit, name)
    return parse_header(data, size=size, where=f"{repo}/{name}")


def is_path(reference: str) -> bool:
    """Whether a reference means a folder of this machine rather than an id on the Hub."""
    looks = (
        reference.startswith((".", "/", "~"))
        or "\\" in reference
        or re.match("[A-Za-z]:", reference)
    )
    return bool(reference) and (bool(looks) or reference.count("/") > 1 or Path(reference).exists())


def locate(reference: str, revision: str | None = None) -> Source:
    """Find a base or an adapter. Looks, but downloads no file. Raises InputError."""
    if is_path(reference):
        return _locate_folder(reference)
    if not _HUB_ID.fullmatch(reference) or "--" in reference or ".." in reference:
        raise InputError(
            "is neither a folder nor the form of an id on the Hub",
            where=reference or "an empty name",
            fix="give a folder (./name) or an id (owner/name)",
        )
    try:
        found = hub.look_up(reference, revision)
    except InputError as error:
        similar = _similar_folder(Path(reference))
        if similar:
            error.fix = f"{error.fix}; on this machine there is the folder {similar}"
        raise
    return Source(reference, None, reference, found.commit, found.files)


def _locate_folder(reference: str) -> Source:
    folder = Path(reference).expanduser()
    if not folder.exists():
        similar = _similar_folder(folder)
        hint = f"did you mean {similar}?" if similar else f"the working folder is {Path.cwd()}"
        raise InputError("there is no such folder", where=reference, fix=hint)
    if not folder.is_dir():
        raise InputError(
            "is a file, and a folder is expected", where=reference, fix=_instead_of(folder)
        )
    try:
        files = dict(sorted(_files_in(folder)))
    except PermissionError as error:
        raise InputError(
            f"may not be read: {error.filename}", where=reference, fix="change its permissions"
        ) from None
    return Source(reference, folder, None, None, files)


def _files_in(folder: Path) -> Iterable[tuple[str, int]]:
    """Files of the folder and of its direct sub-folders, hidden ones left out."""
    home = _trusted_root(folder)
    count = 0
    for parent, below, names in os.walk(folder):
        below[:] = [n for n in below if not n.startswith(".")] if Path(parent) == folder else []
        for name in names:
            path = Path(parent) / name
            count += 1
            if count > _MOST_FILES:
                raise InputError(
                    f"holds more than {_MOST_FILES} files, so it is no model folder",
                    where=folder,
                    fix="give the folder that holds config.json or adapter_config.json itself",
                )
            if name.startswith(".") or not path.is_file():
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise InputError(
                    f"is a link that leaves the folder, to {path.resolve()}",
                    where=path,
                    fix="put the file itself in its place",
                )
            size = path.stat().st_size
            if size < 1024 and name.endswith(_READ):
                refuse_lfs_pointer(path.read_bytes()[:100], where=path)
            yield path.relative_to(folder).as_posix(), size


def _trusted_root(folder: Path) -> Path:
    """The folder itself, or its repository's when it is a snapshot in the Hub's cache, which is all links."""
    real = folder.resolve()
    if real.parent.name == "snapshots" and (real.parent.parent / "blobs").is_dir():
        return real.parent.parent
    return real


def _similar_folder(path: Path) -> Path | None:
    """An existing folder whose name is near the one that was asked for."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return path.with_name(near[0]) if near else None


def _instead_of(file: Path) -> str:
    if file.suffix == ".gguf":
        return "GGUF is a format for llama.cpp; give the folder of the model it was made from"
    if file.suffix in (".safetensors", ".bin", ".json"):
        return f"give the folder that holds it: {file.parent}"
    if file.suffix in (".zip", ".gz", ".tar", ".tgz"):
        return "unpack it, and give the folder"
    return "give the folder of a model or an adapter"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
