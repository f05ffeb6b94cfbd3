"""A folder that is there already: is it, by its receipt and by hashes, the model that is to be written?

So that what was published before a run was stopped is not in its own way when the same command goes on.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import manifest
from pipeline.blueprint import SavedDtype, State
from pipeline.checkpoint.hashes import hash_files
from pipeline.checkpoint.pending import is_pending, pending_folder
from pipeline.errors import InputError, OutputError
from pipeline.receipt.make import fingerprint, read_inputs, sources_of
from pipeline.receipt.record import FILE_NAME, HashedFile, Receipt, Saved, read_receipt

if TYPE_CHECKING:
    from pipeline.run import RunContext


def says_it_is(folder: Path, state: State, *, dtype: SavedDtype, max_shard_size: str) -> bool:
    """Whether a folder's receipt tells of the model of this state, and of inputs like those that are there.

    Nothing is hashed, so that this is reason to look closer and no more. A model of what the recipe itself
    makes is never the same.
    """
    with suppress(InputError):
        receipt, blueprint = read_receipt(folder.expanduser()), state.blueprint
        if blueprint is None or pending_folder(blueprint.base.model, "model", state):
            return False
        if any(is_pending(adapter, state) for adapter in blueprint.all_adapters):
            return False
        then = [{file.name: file.bytes for file in one.files} for one in receipt.inputs]
        if then != [dict(source.files) for source in sources_of(blueprint)]:
            return False
        how = {"dtype": dtype, "max_shard_size": max_shard_size}
        saved = receipt.saved.model_copy(update=how)
        now = fingerprint(blueprint, receipt.inputs, saved, manifest.versions())
        return receipt.fingerprint == now
    return False


def prove_it_is(run: RunContext, folder: Path, saved: Saved) -> list[HashedFile]:
    """The files of a folder that is, hash by hash, what the running step would write.

    Raises OutputError when it is not, or may not be.
    """
    try:
        receipt = read_receipt(folder)
    except InputError as error:
        raise _other(folder, error.what) from error
    now = fingerprint(run.blueprint, read_inputs(run), saved, manifest.versions())
    if (receipt.fingerprint, receipt.saved) != (now, saved):
        raise _other(folder, "it was made of other inputs, or in another way")
    why = _changed(run, receipt, folder)
    if why is not None:
        raise _other(folder, why)
    return receipt.files


def _changed(run: RunContext, receipt: Receipt, folder: Path) -> str | None:
    noted = {file.name: file for file in receipt.files}
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if not f.is_dir()}
    odd = sorted(there ^ {*noted, FILE_NAME})
    if odd:
        return f"{odd[0]} is {'new' if odd[0] in there else 'gone'}"
    with run.bar("hashing", sum(file.bytes for file in receipt.files), unit="B") as bar:
        hashes = hash_files([folder / name for name in noted], bar.advance)
    changed = (name for name, file in noted.items() if hashes[folder / name] != file.blake3)
    name = next(changed, None)
    return name and f"{name} has changed"


def _other(folder: Path, why: str) -> OutputError:
    return OutputError(
        f"exists already, and is not what is to be written: {why}",
        where=folder,
        fix="choose another folder, or set `overwrite: true` to replace it",
    )
