"""The four proofs of a saved folder, each by itself: what `verify` is made of."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from pipeline.blueprint import Blueprint, Folder, SavedDtype
from pipeline.errors import MergelineError, VerificationError
from pipeline.proof import reference, whole
from pipeline.proof.findings import Fault, Findings
from pipeline.proof.logits import Answers, Request, answer
from pipeline.proof.module_tolerance import default_module_tolerance
from pipeline.proof.modules import ModuleProof
from pipeline.proof.origins import check_origins
from pipeline.proof.structure import check_structure
from tests.fixtures.session import Session

PROOFS = ("whole model", "modules", "accounting", "structure")

PROMPTS = ["What is the capital of France?", "Load the base, attach the adapter, merge"]

Said = dict[str, str]
"""What a proof finds wrong, by the name of the module, tensor or file."""

Found = dict[str, Said]
"""What each proof says."""


def whole_model(session: Session, folder: Folder) -> Said:
    """What the default bounds say of the predictions, or why there are none.

    In this process, as each of its own takes seconds, and without writing text, which no bound judges.
    """
    with patch.object(whole, "ask", _ask), patch.object(reference, "NEW_TOKENS", 0):
        try:
            proof = whole.prove_whole(session.run, folder, PROMPTS)
        except MergelineError as error:
            return {"": str(error)}
    said = proof.default.broken_by(proof.found, proof.kept)
    return {"": "; ".join(said)} if said else {}


def _ask(request: Request) -> Answers:
    try:
        return answer(request)
    except Exception as error:  # what ends the other process
        raise VerificationError(str(error), where=request.base.model, fix="") from error


def modules(blueprint: Blueprint, folder: Path) -> Said:
    """The modules that the default bounds refuse; without a name, why there is nothing to look at."""
    try:
        proof = ModuleProof(blueprint, folder)
        bounds = default_module_tolerance(proof.dtypes, len(blueprint.folds[-1].adapters))
        figures = list(proof.figures(lambda done: None))
    except MergelineError as error:
        return {"": str(error)}
    said = {one.name: "; ".join(bounds.broken_by(one)) for one in figures}
    broken = {name: text for name, text in said.items() if text}
    lost = bounds.lost(figures)
    return broken or ({"": lost} if lost else {})


def accounting(blueprint: Blueprint, folder: Path, dtype: SavedDtype) -> Said:
    """Tensors and files that are not what base and adapters make of them."""
    found = Findings()
    check_origins(folder, blueprint, dtype, lambda done: None, found)
    return _named(found)


def structure(folder: Path) -> Said:
    """Parts that do not fit each other."""
    found = Findings()
    check_structure(folder, found)
    return _named(found)


def name_of(fault: Fault) -> str:
    """The tensor that a fault is about, or the file."""
    return fault.where.rpartition(": ")[2]


def _named(found: Findings) -> Said:
    return {name_of(fault): fault.what for fault in found.faults}


def of_folder(session: Session, folder: Folder, dtype: SavedDtype) -> Found:
    """All four."""
    return {
        "whole model": whole_model(session, folder),
        "modules": modules(folder.blueprint, folder.path),
        "accounting": accounting(folder.blueprint, folder.path, dtype),
        "structure": structure(folder.path),
    }
