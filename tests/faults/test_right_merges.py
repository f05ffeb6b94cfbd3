"""No false alarms: right merges of every row of the parity matrix pass the proofs that find the faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.accounting.processor import has
from pipeline.blueprint import Blueprint, Folder, SavedDtype
from pipeline.proof.modules import why_no_modules
from tests.faults import proofs
from tests.faults.rows import GROUPS, NOT_WHOLE, passed_by
from tests.fixtures.models import build_tokenizer
from tests.fixtures.session import Session
from tests.parity import modules_cases as by_modules
from tests.parity import stream_cases as direct

pytestmark = by_modules.SAID_BY_PEFT


def prove(name: str, blueprint: Blueprint, folder: Path, dtype: SavedDtype) -> proofs.Found:
    """What each proof says that can be made of a row."""
    found = {
        "accounting": proofs.accounting(blueprint, folder, dtype),
        "structure": proofs.structure(folder),
    }
    if why_no_modules(blueprint) is None:
        found["modules"] = proofs.modules(blueprint, folder)
    if name not in NOT_WHOLE:
        session = Session(folder.parent / "run")
        found["whole model"] = proofs.whole_model(session, Folder(folder, blueprint))
    return found


def merged_by_modules(case: by_modules.Case, folder: Path) -> tuple[Blueprint, Path]:
    blueprint = by_modules.build(case, folder)
    return blueprint, by_modules.written(case, blueprint, folder, "stream")


def merged_directly(case: direct.Case, folder: Path) -> tuple[Blueprint, Path]:
    if case.quantization and case.dtype == "float16" and not has("avx512f"):
        pytest.skip("goes live on this processor, as the plan says")
    base, adapters = direct.build(case, folder)
    build_tokenizer(base)
    blueprint = direct.blueprint_of(case, base, adapters)
    return blueprint, direct.written(blueprint, folder, case.shard, case.save)


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, rows in GROUPS.items() for name in rows]
)
def test_a_right_merge_passes(
    group: str, name: str, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    case = GROUPS[group][name]
    made = merged_directly if isinstance(case, direct.Case) else merged_by_modules
    blueprint, folder = made(case, tmp_path)  # type: ignore[operator]

    found = prove(name, blueprint, folder, case.save)

    passed = [proof for proof in proofs.PROOFS if found.get(proof) == {}]
    record_property("right", [group, name, *passed])
    assert passed == passed_by(name, case), found


def test_deltas_far_larger_than_the_base_pass_in_float32(tmp_path: Path) -> None:
    case = replace(by_modules.CASES["RandLoRA"], dtype="float32")
    blueprint, folder = merged_by_modules(case, tmp_path)

    assert not any(prove("in float32", blueprint, folder, case.save).values())
