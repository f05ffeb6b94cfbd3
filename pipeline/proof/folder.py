"""`mergeline verify`: is a model folder whole, and the one that its receipt says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Placement, SavedDtype
from pipeline.checkpoint.quantization import as_dtype
from pipeline.checkpoint.source import locate
from pipeline.errors import InputError
from pipeline.proof.files import bytes_of, check_files, check_inputs
from pipeline.proof.findings import Findings
from pipeline.proof.origins import check_origins
from pipeline.proof.recognise import recognise
from pipeline.proof.structure import check_structure
from pipeline.receipt.record import FILE_NAME, Receipt, read_receipt

if TYPE_CHECKING:
    from pipeline.run import Console


def verify_folder(
    folder: Path, base: str | None, adapters: Sequence[str], console: Console
) -> Findings:
    """Check a model folder: its files, how they fit, and its tensors against base and adapters.

    `base` and `adapters` say where those lie; by default where the receipt says. A folder without a receipt
    is taken for a merge of those that are given, in the way that some of its layers tell. Raises InputError
    when there is no model in the folder, when what is given is not there, or when the adapters are not as
    many as were merged.
    """
    found = Findings()
    _check_is_model(folder)
    receipt = None
    if (folder / FILE_NAME).exists():
        with found.refusals():
            receipt = read_receipt(folder)
    else:
        found.skipped.append(f"the hashes of the files: the folder has no {FILE_NAME}")
    if receipt:
        with console.bar("hashing", bytes_of(receipt, folder), unit="B") as bar:
            check_files(receipt, folder, bar.advance, found)
    check_structure(folder, found)
    blueprint, dtype = _expected(folder, receipt, base, adapters)
    if blueprint is None:
        found.skipped.append(
            "the tensors against base and adapters: say where these are with `--base` and `--adapter`"
        )
        return found
    asked = {reference for reference in (base, *adapters) if reference}
    if receipt and not check_inputs(receipt, references_of(blueprint), asked, found):
        found.skipped.append("the tensors against base and adapters: not all of these are at hand")
        return found
    if receipt and receipt.blueprint.base.trust_remote_code:
        found.skipped.append(
            "the tensors against base and adapters: the base comes with code, which is not run here; "
            "`mergeline replay --trust-remote-code` does"
        )
        return found
    if receipt is None:
        blueprint = recognise(folder, blueprint, dtype, found)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with console.bar("comparing", size, unit="B") as bar:
        check_origins(folder, blueprint, dtype, bar.advance, found)
    if not found.faults:  # else the tensors at fault are named, and say it more exactly
        _prove_modules(folder, blueprint, console, found)
    return found


def _prove_modules(folder: Path, blueprint: Blueprint, console: Console, found: Findings) -> None:
    """Hold each merged module against PEFT's own layer, within the bounds of the step `verify`.

    The tensors may be what base and adapters make of them, and the merge still not be what was trained.
    """
    from pipeline.proof.module_tolerance import default_module_tolerance
    from pipeline.proof.modules import ModuleProof, why_no_modules

    why = why_no_modules(blueprint)
    if why is None and blueprint.dequantize_from == "original":
        why = "merged into other weights than those of the training, as was asked"
    if why is not None:
        found.skipped.append(f"the merged modules against the trained ones: {why}")
        return
    with found.refusals():
        proof = ModuleProof(blueprint, folder)
        with console.bar("comparing modules", proof.bytes, unit="B") as bar:
            modules = list(proof.figures(bar.advance))
        bounds = default_module_tolerance(proof.dtypes, len(blueprint.folds[-1].adapters))
        for module in modules:
            for said in bounds.broken_by(module):
                found.fault(module.name, said)
        if lost := bounds.lost(modules):
            found.fault("", lost)
        worst = max(module.error for module in modules)
        found.checked.append(
            f"{len(modules)} merged modules on random inputs: off by {worst:.2%} at most"
        )


def _check_is_model(folder: Path) -> None:
    # Absolute, because a relative name that is mistyped may look like an id on the Hub.
    source = locate(str(folder.absolute()))
    if {"config.json", FILE_NAME} & source.files.keys():
        return
    below = [name.split("/")[0] for name in source.files if name.endswith("/config.json")]
    raise InputError(
        f"holds no model: neither config.json nor {FILE_NAME}",
        where=folder,
        fix=f"did you mean {folder / below[0]}?" if below else "name a folder that `save` wrote",
    )


def _expected(
    folder: Path, receipt: Receipt | None, base: str | None, adapters: Sequence[str]
) -> tuple[Blueprint | None, SavedDtype]:
    """What the folder should hold, and how it was saved."""
    if receipt is None:
        if base is None:
            return None, "keep"
        for reference in (base, *adapters):
            locate(reference)  # what was asked for and is not there is no fault of the folder
        fold = Fold(tuple(Adapter(path, name=f"a{n}") for n, path in enumerate(adapters)))
        blueprint = Blueprint(Base(base), folds=(fold,) if adapters else ())
        return blueprint, _dtype_of(folder)
    return blueprint_of(receipt, base, adapters), receipt.saved.dtype


def blueprint_of(receipt: Receipt, base: str | None, adapters: Sequence[str]) -> Blueprint:
    """The blueprint of a receipt, read from where its inputs are now.

    A receipt may come from anywhere, so it decides neither that code of the base is run nor where files are
    put. Raises InputError when the adapters are not as many as were merged.
    """
    known = receipt.blueprint
    paths = list(adapters) or [adapter.path for adapter in known.all_adapters]
    if len(paths) != len(known.all_adapters):
        raise InputError(
            f"was made with {len(known.all_adapters)} adapters, and {len(paths)} are given",
            where=FILE_NAME,
            fix="give `--adapter` once for each, in the order of the receipt",
        )
    moved = known.read_from(base or known.base.model, paths)
    safe = replace(moved.base, trust_remote_code=False, placement=Placement())
    return replace(moved, base=safe)


def references_of(blueprint: Blueprint) -> list[str]:
    return [blueprint.base.model, *(adapter.path for adapter in blueprint.all_adapters)]


def _dtype_of(folder: Path) -> SavedDtype:
    config = locate(str(folder)).read_json("config.json") or {}
    return as_dtype(config.get("dtype") or config.get("torch_dtype")) or "keep"
