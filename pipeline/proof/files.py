"""Are the files of a folder, and those it was made from, the ones that its receipt names?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pipeline.checkpoint.hashes import hash_files, hash_inputs
from pipeline.checkpoint.source import is_path, locate
from pipeline.errors import InputError
from pipeline.proof.findings import Findings
from pipeline.receipt.record import FILE_NAME, HashedFile, Input, Receipt

CARD = "README.md"
"""Prose: nothing in the weights depends on it."""


def bytes_of(receipt: Receipt, folder: Path) -> int:
    """What `check_files` will read."""
    files = [folder / file.name for file in receipt.files]
    return sum(file.stat().st_size for file in files if file.is_file())


def check_files(
    receipt: Receipt, folder: Path, advance: Callable[[float], None], found: Findings
) -> None:
    """Hash every file of the folder again; files that came since are faults when they hold weights."""
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    named = {file.name for file in receipt.files}
    for name in sorted(named - there):
        found.fault(name, "is missing")
    extra = sorted(there - named - {FILE_NAME})
    for name in extra:
        if name.endswith((".safetensors", ".bin", ".pt", ".py")):
            found.fault(name, "is not of this model: the receipt does not name it")
    present = [file for file in receipt.files if file.name in there]
    hashes = hash_files([folder / file.name for file in present], advance)
    for file in present:
        if hashes[folder / file.name] != file.blake3:
            found.fault(file.name, _how(file, folder))
    found.checked.append(f"{len(named)} files against the hashes of the receipt")


def _how(file: HashedFile, folder: Path) -> str:
    size = (folder / file.name).stat().st_size
    if size != file.bytes:
        return f"has {size} bytes, and had {file.bytes} when it was written"
    return "holds other bytes than those that were written"


def check_inputs(
    receipt: Receipt, references: Sequence[str], asked: Collection[str], found: Findings
) -> bool:
    """Are the base and the adapters at `references` those of the receipt? False when not, or not at hand.

    Models of the Hub are fetched only where `asked` names them. Raises InputError for those of `asked` that
    are not there.
    """
    pairs = zip(receipt.inputs, references, strict=True)
    same = [_check_input(one, reference, reference in asked, found) for one, reference in pairs]
    return all(same)


def _check_input(one: Input, reference: str, asked: bool, found: Findings) -> bool:
    option = f"--{one.role}"
    if one.reference == reference and not asked:
        if not is_path(reference):
            found.skipped.append(
                f"the {one.role} {reference}, which is on the Hub: `{option} {reference}` fetches it"
            )
            return False
        if not Path(reference).exists():
            found.skipped.append(
                f"the {one.role}, which was {reference}: it is not on this machine; "
                f"say with `{option}` where it is"
            )
            return False
    try:
        source = locate(reference, one.commit if reference == one.reference else None)
        folder = source.fetch([file.name for file in one.files])
    except InputError as error:
        if reference != one.reference:
            raise  # it was typed just now, and the error knows what is like it
        raise InputError(
            f"the {one.role} cannot be read: {error.what}",
            where=reference,
            fix=f"give `{option}` with the place where it is now",
        ) from error
    there = [file for file in one.files if (folder / file.name).is_file()]
    hashes = hash_inputs([folder / file.name for file in there])
    wrong = [
        file.name
        for file in one.files
        if hashes.get(folder / file.name) != file.blake3 and file.name != CARD
    ]
    for name in wrong:
        found.fault(
            f"{reference}/{name}", f"is not the {one.role}'s file that this model was made from"
        )
    if not wrong:
        found.checked.append(f"the {one.role} {reference} is the one of the receipt")
    return not wrong
