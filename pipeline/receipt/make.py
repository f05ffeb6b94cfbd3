"""Write the receipt of a folder that is complete but for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import manifest
from pipeline.blueprint import Blueprint
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.hashes import hash_files
from pipeline.checkpoint.journal import FILE_NAME as JOURNAL
from pipeline.checkpoint.source import Source, is_path
from pipeline.receipt.record import FILE_NAME, HashedFile, Input, Receipt, Saved

if TYPE_CHECKING:
    from pipeline.run import RunContext


def write_receipt(
    run: RunContext, folder: Path, saved: Saved, known: Mapping[str, str]
) -> dict[str, str]:
    """Write the receipt of the running step's model; returns the hash of every file by its name.

    `known` are the hashes that were taken while files were written.
    """
    blueprint = absolute(run.blueprint)
    inputs = read_inputs(run)
    versions = manifest.versions()
    files = _hash_folder(run, folder, known)
    receipt = Receipt(
        fingerprint=fingerprint(blueprint, inputs, saved, versions),
        made=datetime.now(UTC),
        blueprint=blueprint,
        saved=saved,
        inputs=inputs,
        files=files,
        recipe=run.recipe.name,
        resolved=dict(run.recipe.resolved),
        versions=versions,
        machine=manifest.machine(),
    )
    (folder / FILE_NAME).write_text(receipt.to_json(), encoding="utf-8")
    return {file.name: file.blake3 for file in files}


def read_inputs(run: RunContext) -> list[Input]:
    """The base and the adapters of the running step's model, with the hashes of their files."""
    blueprint = run.blueprint
    sources = sources_of(blueprint)
    folders = [source.fetch() for source in sources]
    pairs = list(zip(sources, folders, strict=True))
    known = run.hashes_of([folder / name for source, folder in pairs for name in source.files])
    return [_input(number, source, folder, known) for number, (source, folder) in enumerate(pairs)]


def sources_of(blueprint: Blueprint) -> list[Source]:
    """The base, then the adapters in their order."""
    adapters = [inspect_adapter(adapter).source for adapter in blueprint.all_adapters]
    return [inspect_base(blueprint.base).source, *adapters]


def fingerprint(
    blueprint: Blueprint, inputs: list[Input], saved: Saved, versions: Mapping[str, str]
) -> str:
    """SHA-256 (hex) over all that can change a byte of the folder, wherever the inputs lie."""
    names = [str(number) for number in range(len(inputs))]
    hashes = {f"{n}/{file.name}": file.blake3 for n, one in enumerate(inputs) for file in one.files}
    how = saved.model_dump(include={"dtype", "max_shard_size"})
    return blueprint.read_from(names[0], names[1:]).fingerprint(hashes | how, versions)


def absolute(blueprint: Blueprint) -> Blueprint:
    """The blueprint with folders named so that they are found from anywhere on this machine."""
    paths = [_absolute(adapter.path) for adapter in blueprint.all_adapters]
    return blueprint.read_from(_absolute(blueprint.base.model), paths)


def _absolute(reference: str) -> str:
    return str(Path(reference).expanduser().absolute()) if is_path(reference) else reference


def _input(number: int, source: Source, folder: Path, known: Mapping[Path, str]) -> Input:
    return Input(
        role="adapter" if number else "base",
        reference=_absolute(source.reference),
        commit=source.commit,
        files=[
            HashedFile(name=name, bytes=size, blake3=known[folder / name])
            for name, size in sorted(source.files.items())
        ],
    )


def _hash_folder(run: RunContext, folder: Path, known: Mapping[str, str]) -> list[HashedFile]:
    names = [f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file()]
    sizes = {name: (folder / name).stat().st_size for name in names if name != JOURNAL}
    new = [folder / name for name in sizes if name not in known]
    with run.bar("hashing", sum(file.stat().st_size for file in new), unit="B") as bar:
        found = hash_files(new, bar.advance)
    return [
        HashedFile(name=name, bytes=size, blake3=known.get(name) or found[folder / name])
        for name, size in sizes.items()
    ]
