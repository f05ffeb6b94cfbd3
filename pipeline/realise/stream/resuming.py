"""Go on where an earlier run of the same stream was killed; docs/decisions/009 has the reasons."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from pipeline.accounting.direct import Work
from pipeline.accounting.layout import Shard
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.beside import target_of
from pipeline.checkpoint.identity import Identity, identity
from pipeline.checkpoint.journal import Journal
from pipeline.checkpoint.takeover import take_over
from pipeline.errors import InputError
from pipeline.manifest import versions

if TYPE_CHECKING:
    from pipeline.run import RunContext

_READ = (".safetensors", ".bin")


def resume(
    run: RunContext, folder: Path, shards: Sequence[Shard], inputs: Mapping[Path, Identity]
) -> Journal:
    """The journal of the folder, with those of the shards that an earlier run finished."""
    sizes = {shard.name: shard.size for shard in shards}
    before = _earlier_targets(run.dir, target_of(folder))
    journal = take_over(folder, _key(run, shards, inputs), sizes, elsewhere=before)
    if journal.finished:
        run.note(
            f"{len(journal.finished)} of {len(shards)} files of weights were finished before this run"
        )
    return journal


def identities(run: RunContext, work: Work) -> dict[Path, Identity]:
    """The files of the base and the adapters, as they are now."""
    sources = [work.base.source]
    sources += [inspect_adapter(adapter).source for adapter in run.blueprint.all_adapters]
    return {
        file: identity(file)
        for source in sources
        for folder in [source.fetch()]
        for file in map(folder.joinpath, source.files)
        if file.is_file()
    }


def check_unchanged(inputs: Mapping[Path, Identity]) -> None:
    """Raise InputError for a file of weights that is not the one it was."""
    for file, before in inputs.items():
        if not file.name.endswith(_READ):
            continue
        now = identity(file)
        # Rights and further names may change meanwhile, and with them the status time.
        if now._replace(status_ns=before.status_ns) != before:
            raise InputError(
                "was changed while it was read", where=file, fix="run again when nothing writes it"
            )


def _key(run: RunContext, shards: Sequence[Shard], inputs: Mapping[Path, Identity]) -> str:
    """Over all that can change a byte of the shards."""
    files = {who.path: str(tuple(who)) for who in inputs.values()}
    layout = [[shard.name, blake3(shard.header).hexdigest()] for shard in shards]
    said = json.dumps([run.blueprint.fingerprint(files, versions()), layout])
    return blake3(said.encode()).hexdigest()


def _earlier_targets(run_dir: Path, target: Path) -> Iterator[Path]:
    """Where earlier runs left work on the same folder of their own: each run has a new one by default."""
    run_dir = run_dir.absolute()
    if not target.is_relative_to(run_dir):
        return
    inside = target.relative_to(run_dir)
    name = f".{glob.escape(inside.name)}.partial-*"
    pattern = str(Path("*", *map(glob.escape, inside.parent.parts), name))
    # Not Path.glob(), which fails when a folder goes while it looks.
    left = glob.glob(pattern, root_dir=run_dir.parent, include_hidden=True)
    found = {target_of(run_dir.parent / name) for name in left}
    yield from sorted(found - {target}, reverse=True)
