"""No false alarms: right merges of every row of the parity matrix pass the proofs that find the faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.blueprint import Blueprint, Folder, SavedDtype
from pipeline.proof.modules import why_no_modules
from tests.faults import proofs
from tests.fixtures.models import build_tokenizer
from tests.fixtures.session import Session
from tests.parity import test_modules as by_modules
from tests.parity import test_stream as direct

pytestmark = by_modules.pytestmark
Record = Callable[[str, Any], None]

NOT_WHOLE = {
    "Whisper, convolutions": "PEFT cannot run it: transformers asks the wrapped convolution for its stride",
    "RandLoRA": "its deltas are a hundred times the base, where bfloat16 itself is off by a sixth",
}
"""Rows whose trained model does not run, or is no measure for another one."""


def prove(
    name: str, blueprint: Blueprint, folder: Path, dtype: SavedDtype, record: Record
) -> dict[str, proofs.Said]:
    """What each proof that can be made says; records which those are."""
    session = Session(folder.parent / "run")
    made = {
        "accounting": proofs.accounting(blueprint, folder, dtype),
        "structure": proofs.structure(folder),
    }
    if why_no_modules(blueprint) is None:
        made["modules"] = proofs.modules(blueprint, folder)
    if name not in NOT_WHOLE:
        made["whole model"] = proofs.whole_model(session, Folder(folder, blueprint))
    record("right", [name, *(proof for proof in made if not made[proof])])
    return made


@pytest.mark.parametrize("name", by_modules.CASES)
def test_what_peft_makes_module_by_module_passes(
    name: str, tmp_path: Path, record_property: Record
) -> None:
    case = by_modules.CASES[name]
    blueprint = by_modules.build(case, tmp_path)
    folder = by_modules.written(case, blueprint, tmp_path, "stream")

    found = prove(name, blueprint, folder, case.save, record_property)

    assert not any(found.values()), found


@pytest.mark.parametrize("name", direct.CASES)
def test_what_is_merged_directly_passes(name: str, tmp_path: Path, record_property: Record) -> None:
    case = direct.CASES[name]
    if case.quantization and case.dtype == "float16" and not direct.has("avx512f"):
        pytest.skip("goes live on this processor, as the plan says")
    base, adapters = direct.build(case, tmp_path)
    build_tokenizer(base)
    blueprint = direct.blueprint_of(case, base, adapters)
    folder = direct.written(blueprint, tmp_path, case.shard, case.save)

    found = prove(f"direct: {name}", blueprint, folder, case.save, record_property)

    # The original weights are not those that the adapter saw: as was asked, and not what was trained.
    refused = {"modules"} if case.original else set()
    assert {proof for proof, said in found.items() if said} == refused, found


def test_deltas_far_larger_than_the_base_pass_in_float32(
    tmp_path: Path, record_property: Record
) -> None:
    case = replace(by_modules.CASES["RandLoRA"], dtype="float32")
    blueprint = by_modules.build(case, tmp_path)
    folder = by_modules.written(case, blueprint, tmp_path, "stream")

    found = prove("RandLoRA in float32", blueprint, folder, case.save, record_property)

    assert not any(found.values()), found
