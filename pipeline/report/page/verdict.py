"""What came of a run, in a line that is understood at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os.path import normpath
from pathlib import PurePath
from typing import Literal

from pipeline.manifest import Manifest, StepRecord
from pipeline.receipt.record import FILE_NAME as RECEIPT
from pipeline.report.page.words import amount

Tone = Literal["good", "bad", "warn", "plain"]


@dataclass(frozen=True)
class Verdict:
    """The head of the page."""

    tone: Tone
    headline: str
    details: tuple[str, ...] = ()


def verdict(record: Manifest) -> Verdict:
    """What a person wants to know first. A merge that nothing looked at is not called right."""
    if record.status == "running":
        at = next((s.id for s in record.steps if s.status == "running"), None)
        return Verdict(
            "warn",
            "Not finished",
            (f"It is still running, or was killed{f', at {at}' if at else ''}.",),
        )
    if record.status == "interrupted":
        return Verdict("warn", "Interrupted", _at(record, "interrupted"))
    if record.status == "failed":
        if any(map(_refuses, record.steps)):
            return Verdict("bad", "The saved model is not the one that was trained")
        return Verdict("bad", "The run failed", _at(record, "failed"))
    saved = [step for step in record.steps if step.step == "save"]
    proofs = [step for step in record.steps if step.step == "verify"]
    proven = set(_looked_at(record))
    unproven = [
        str(step.settings.get("path", step.id))
        for step in saved
        if _folder(step, "path", record) not in proven
    ]
    if not saved and not proofs:
        return Verdict("plain", "Done")
    if not proofs:
        return Verdict(
            "warn", "Saved, not proven", ("The recipe has no step that verifies what it saved.",)
        )
    if unproven:
        return Verdict(
            "warn",
            "Not all that was saved is proven",
            (*map(_said, proofs), f"Not verified: {', '.join(unproven)}"),
        )
    one = len(proofs) == 1
    what = "model is the one that was" if one else "models are those that were"
    return Verdict("good", f"The saved {what} trained", tuple(map(_said, proofs)))


def _refuses(step: StepRecord) -> bool:
    """Whether it is a `verify` that says no, and not another step, or one that could not look."""
    error = step.error
    return step.step == "verify" and error is not None and error.type == "VerificationError"


def _at(record: Manifest, status: str) -> tuple[str, ...]:
    return tuple(f"At the step {step.id}." for step in record.steps if step.status == status)


def _folder(step: StepRecord, option: str, record: Manifest) -> str | None:
    """The folder of a `save` or `verify` step: where it wrote the receipt, or else what its option says.

    Nobody knows later where a relative path of a recipe began.
    """
    wrote = (PurePath(record.run_dir, file.path) for file in step.outputs)
    folder = next((str(file.parent) for file in wrote if file.name == RECEIPT), None)
    said = folder or step.settings.get(option)
    return None if said is None else normpath(said)


def _looked_at(record: Manifest) -> Iterator[str | None]:
    """The folders that `verify` steps held against the trained model."""
    last = None
    for step in record.steps:
        if step.step == "save":
            last = _folder(step, "path", record)
        elif step.step == "verify" and step.status == "done":
            yield _folder(step, "folder", record) or last


def _said(proof: StepRecord) -> str:
    """The figures of a proof in a line."""
    found = proof.metrics
    parts = [
        f"{before} {amount(name, found[name])}{after}".strip()
        for name, before, after in (
            ("error", "off by", ""),
            ("kl", "KL", ""),
            ("top1", "the same likeliest token at", " of the positions"),
            ("kept", "", " of the adapters' effect kept"),
            ("module_error", "no module off by more than", ""),
            ("delta_kept", "", " of the delta in the weights"),
        )
        if found.get(name) is not None
    ]
    return f"{proof.id}: {', '.join(parts)}." if parts else f"{proof.id}: it holds."
