"""Go on with the work of an earlier run, as far as it is proven to be finished."""

from __future__ import annotations

import shutil
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
    is told of the bytes hashed. What is of no use any more is removed: other work beside the target, and
    what is left of the same work elsewhere.
    """
    adopted = _adopt(target_of(folder), folder, key)
    for other in elsewhere:
        with suppress(OutputError), only_writer(other):
            adopted = _adopt(other, folder, key, adopted=adopted)
    clear_leftovers(folder)
    noted = [entry for entry in read_journal(folder)[1] if sizes.get(entry.name) == entry.bytes]
    there = {entry.name: entry for entry in noted if is_own_file(folder / entry.name)}
    hashes = hash_files([folder / name for name in there], advance)
    proven = [entry for entry in there.values() if hashes[folder / entry.name] == entry.blake3]
    keep_only(folder, {FILE_NAME, *(entry.name for entry in proven)})
    return Journal(folder, key, proven)


def _adopt(target: Path, folder: Path, key: str, *, adopted: bool = False) -> bool:
    """Put the most advanced work of that key beside the target in the place of the empty folder.

    Removes the rest of that key, all of it when the folder has `adopted` some before, and what has no key.
    """
    found = [
        (len(finished), other)
        for other in leftovers(target, "partial")
        if other != folder and is_own_folder(other)
        for noted, finished in [read_journal(other)]
        if noted in (key, None)
    ]
    for finished, other in sorted(found, reverse=True):
        if finished and not adopted:
            try:
                other.rename(folder)
            except OSError:  # another file system: then it is written anew
                continue
            adopted = True
        else:
            shutil.rmtree(other, ignore_errors=True)
    return adopted
