"""`mergeline replay`: make a model folder again from its receipt, and say whether the bytes are the same."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import manifest
from pipeline.blueprint import State
from pipeline.checkpoint.hashes import hash_files
from pipeline.checkpoint.publish import publishing
from pipeline.errors import InputError
from pipeline.manifest import StepRecord
from pipeline.proof.diff import compare_tensors
from pipeline.proof.files import CARD, check_inputs
from pipeline.proof.findings import Findings
from pipeline.proof.folder import blueprint_of, references_of
from pipeline.proof.tensors import find_tensors
from pipeline.receipt.record import FILE_NAME, Receipt, read_receipt
from pipeline.recipe.model import Recipe
from pipeline.run import Console, RunContext

_NAMED = 5
"""Tensors of a file that are named; the rest is counted."""


def replay(
    folder: Path,
    console: Console,
    *,
    base: str | None = None,
    adapters: Sequence[str] = (),
    scratch: Path | None = None,
    trust_remote_code: bool = False,
) -> Findings:
    """Rebuild the folder in a temporary place below `scratch`, and compare it file by file.

    Faults are files that came out otherwise; `changed` says what is not as it was when the folder was made.
    The model card is left out, because it is prose and names folders. Raises InputError when the folder has
    no receipt, when `scratch` is no folder, when base or adapters are not at hand, and what a merge raises.
    """
    if scratch is not None and not scratch.is_dir():
        raise InputError(
            "there is no such folder", where=scratch, fix="give `--dir` a folder that is there"
        )
    receipt = read_receipt(folder)
    blueprint = blueprint_of(receipt, base, adapters)
    if receipt.blueprint.base.trust_remote_code and not trust_remote_code:
        raise InputError(
            "was made with code that came with the base",
            where=folder,
            fix="read that code, then give `--trust-remote-code`",
        )
    trusted = receipt.blueprint.base.trust_remote_code
    blueprint = replace(blueprint, base=replace(blueprint.base, trust_remote_code=trusted))
    found = Findings(changed=_changed(receipt))
    references = references_of(blueprint)
    inputs = Findings()
    check_inputs(receipt, references, references, inputs)
    found.changed += [f"{fault.where}: it {fault.what}" for fault in inputs.faults]
    with tempfile.TemporaryDirectory(prefix="mergeline-", dir=scratch) as place:
        # Two deep, so that what other runs left is not looked for among all temporary folders.
        here = Path(place) / "run"
        here.mkdir()
        made = here / "model"
        recipe = Recipe(
            "replay",
            folder / FILE_NAME,
            (),
            run_dir=here,
            engine=receipt.saved.engine,
            device=receipt.saved.device,
            seed=receipt.saved.seed,
        )
        run = RunContext(recipe, console)
        run.state = State(blueprint=blueprint, run_dir=here)
        run.record = StepRecord(id="replay", step="save")
        _write(run, made, receipt)
        _compare(folder, made, receipt, run, found)
    return found


def _write(run: RunContext, made: Path, receipt: Receipt) -> None:
    from pipeline.realise import write_model

    saved = receipt.saved
    with publishing(made, overwrite=False) as partial:
        write_model(run, partial, dtype=saved.dtype, max_shard_size=saved.max_shard_size)
    run.release()


def _changed(receipt: Receipt) -> list[str]:
    """Versions and the processor, where they are not those of the receipt."""
    now = {**manifest.versions(), "processor": manifest.machine()["processor"]}
    then = {**receipt.versions, "processor": receipt.machine.get("processor", "not known")}
    return [
        f"{name}: {then.get(name, 'not there')} then, {now.get(name, 'not there')} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _compare(folder: Path, made: Path, receipt: Receipt, run: RunContext, found: Findings) -> None:
    wanted = {file.name: file.blake3 for file in receipt.files if file.name != CARD}
    new = {f.relative_to(made).as_posix() for f in made.rglob("*") if f.is_file()} - {CARD}
    for name in sorted(wanted.keys() - new):
        found.fault(name, "is not made any more")
    for name in sorted(new - wanted.keys()):
        found.fault(name, "is new: the folder was made without it")
    both = sorted(wanted.keys() & new)
    there = [name for name in both if (folder / name).is_file()]
    files = [*(made / name for name in both), *(folder / name for name in there)]
    with run.bar("hashing", sum(f.stat().st_size for f in files), unit="B") as bar:
        hashes = hash_files(files, bar.advance)
    for name in both:
        if hashes[made / name] != wanted[name]:
            found.fault(name, "comes out with other bytes than when the folder was made")
        if hashes.get(folder / name) != wanted[name]:
            found.fault(name, "was changed, or lost, since the folder was made")
    found.checked.append(
        f"{len(both)} files that were made again, against the hashes of the receipt"
    )
    if any(fault.where.endswith(".safetensors") for fault in found.faults):
        _name_tensors(folder, made, found)


def _name_tensors(folder: Path, made: Path, found: Findings) -> None:
    """Say which tensors differ, where both folders can be read."""
    with found.refusals():
        differences = compare_tensors(find_tensors(str(made)), find_tensors(str(folder)))
        keys = [one.key for one in differences if one.status != "equal"]
        if keys:
            more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            found.fault("tensors", f"that differ: {', '.join(keys[:_NAMED])}{more}")
