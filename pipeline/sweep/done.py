"""Is a job that was done still done? Its recipe, what it read and what it wrote must be what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.checkpoint.hashes import hash_inputs
from pipeline.checkpoint.source import Source
from pipeline.errors import InputError
from pipeline.manifest import FileRecord, Manifest, read_manifest, versions


def why_again(
    folder: Path,
    fingerprint: str,
    sources: Sequence[Source],
    advance: Callable[[float], None] = lambda count: None,
) -> str | None:
    """Why the run in `folder` does not stand for a job any more, or None.

    `sources` are the bases and adapters that the job reads now. Files are hashed where they may have
    changed since they were hashed last; `advance` is told of the bytes.
    """
    folder = folder.absolute()
    try:
        record = read_manifest(folder)
    except InputError as error:
        return error.what
    if record.status != "done":
        return f"its run is {record.status}"
    if record.fingerprint != fingerprint:
        return "another recipe was run in its folder"
    return (
        _other_versions(record)
        or _other_inputs(record, sources, folder)
        or _changed("the input", _local(record.inputs), folder, advance)
        or _changed("the result", record.outputs, folder, advance)
    )


def _other_versions(record: Manifest) -> str | None:
    then, now = record.versions, versions()
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            return f"{name} was {then.get(name, 'missing')}, and is {now.get(name, 'missing')} now"
    return None


def _other_inputs(record: Manifest, sources: Sequence[Source], folder: Path) -> str | None:
    """Files that came, or a model of the Hub that moved on; what is gone is found with what changed."""
    known = {str(folder / entry.path) for entry in _local(record.inputs)}
    commits = {(entry.repo, entry.commit) for entry in record.inputs}
    for source in sources:
        if source.folder is None:
            if (source.repo, source.commit) not in commits:
                return f"{source.repo} is at another commit"
            continue
        for name in source.files:
            if str((source.folder / name).absolute()) not in known:
                return f"the input {source.folder / name} is new"
    return None


def _local(inputs: Sequence[FileRecord]) -> list[FileRecord]:
    """Files of the Hub are told by their commit."""
    return [entry for entry in inputs if entry.repo is None]


def _changed(
    what: str, entries: Sequence[FileRecord], folder: Path, advance: Callable[[float], None]
) -> str | None:
    files = {folder / entry.path: entry for entry in entries}
    for file, entry in files.items():
        if not file.is_file():
            return f"{what} {file} is gone"
        if file.stat().st_size != entry.bytes:
            return f"{what} {file} has another size"
    hashes = hash_inputs(files, advance)
    for file, entry in files.items():
        if hashes[file] != entry.blake3:
            return f"{what} {file} has changed"
    return None
