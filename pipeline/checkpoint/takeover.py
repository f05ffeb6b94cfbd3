"""Go on with the work of an earlier run, as far as it is proven to be finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.checkpoint.beside import leftovers, target_of
from pipeline.checkpoint.hashes import hash_files
from pipeline.checkpoint.journal import (
    FILE_NAME,
    Journal,
    clear_leftovers,
    is_own_file,
    is_own_folder,
    keep_only,
    read_journal,
)
from pipeline.checkpoint.lock import only_writer
from pipeline.errors import OutputError


def take_over(
    folder: Path,
    key: str,
    sizes: Mapping[str, int],
    *,
    elsewhere: Iterable[Path] = (),
    advance: Callable[[float], None] = lambda count: None,
) -> Journal:
    """Begin the work `key` in the empty partial folder, or go on with what an earlier run finished of it.

    `sizes` are the bytes of the files to write, by name. Earlier runs are looked for beside the target and
    beside the targets `elsewhere`. A finished file counts when its hash still is the noted one; `advance`
    is told of the bytes hashed. Other work beside the target can be of no use any more, and is removed.
    """
    target = target_of(folder)
    if not _adopt(target, folder, key):
        for other in elsewhere:
            with suppress(OutputError), only_writer(other):
                if _adopt(other, folder, key):
                    break
    clear_leftovers(folder)
    noted = [entry for entry in read_journal(folder)[1] if sizes.get(entry.name) == entry.bytes]
    there = {entry.name: entry for entry in noted if is_own_file(folder / entry.name)}
    hashes = hash_files([folder / name for name in there], advance)
    proven = [entry for entry in there.values() if hashes[folder / entry.name] == entry.blake3]
    keep_only(folder, {FILE_NAME, *(entry.name for entry in proven)})
    return Journal(folder, key, proven)


def _adopt(target: Path, folder: Path, key: str) -> bool:
    """Put the most advanced work of that key beside the target in the place of the empty folder."""
    found = [
        (len(finished), other)
        for other in leftovers(target, "partial")
        if other != folder and is_own_folder(other)
        for noted, finished in [read_journal(other)]
        if noted == key and finished
    ]
    if not found:
        return False
    try:
        max(found)[1].rename(folder)
    except OSError:  # another file system: then it is written anew
        return False
    return True
