"""The rows of the parity matrix, and the proofs that a right merge of each passes."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults.proofs import PROOFS
from tests.parity import modules_cases, stream_cases

Row = modules_cases.Case | stream_cases.Case

GROUPS: Mapping[str, Mapping[str, Row]] = {
    "kinds of adapter": modules_cases.KINDS,
    "architectures": modules_cases.ARCHITECTURES,
    "precisions": modules_cases.PRECISIONS,
    "files of the base": modules_cases.FILES,
    "merged directly": stream_cases.CASES,
}

NOT_WHOLE = {
    "Whisper, convolutions": "PEFT cannot run it: transformers asks the wrapped convolution for its stride",
    "RandLoRA": "its deltas are a hundred times the base, where bfloat16 itself is off by a sixth",
}
"""Rows whose trained model does not run, or is no measure for another one."""


def passed_by(name: str, row: Row) -> list[str]:
    """All proofs but those that have nothing to look at, or are right to refuse."""
    lacking = {"whole model"} if name in NOT_WHOLE else set()
    # The original weights are not those that the adapter saw: as was asked, and not what was trained.
    if not row.adapters or getattr(row, "original", False):
        lacking.add("modules")
    return [proof for proof in PROOFS if proof not in lacking]
