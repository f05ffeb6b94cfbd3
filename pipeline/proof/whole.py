"""The saved model against the trained one, both whole in memory, one after the other."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import estimate, memory
from pipeline.blueprint import Blueprint, Folder
from pipeline.checkpoint.beside import target_of
from pipeline.errors import VerificationError
from pipeline.manifest import Histogram
from pipeline.proof.clean import ask
from pipeline.proof.compare import Difference, compare, histogram
from pipeline.proof.logits import Answers
from pipeline.proof.reference import Reference, listen
from pipeline.proof.tolerance import Tolerance, default_tolerance

if TYPE_CHECKING:
    from pipeline.run import RunContext


@dataclass(frozen=True)
class WholeProof:
    """How the predictions of a saved model stand to those of the trained one."""

    found: Difference
    kept: float | None
    """Share of what the adapters changed in the logits that is left; None where that means nothing."""
    same_text: int | None
    """Tokens for which the continuations of all prompts are the same; None of a model that does not write."""
    worst: str
    """The position where the error is largest, in words."""
    differences: Histogram | None
    """How the differences of single logits spread; None where there are none, or one is not a number."""
    default: Tolerance
    """What a right merge is within."""


def prove_whole(run: RunContext, folder: Folder, prompts: Sequence[str]) -> WholeProof:
    """Ask both models about the prompts, or built-in ones where there are none.

    Raises VerificationError when the saved folder does not run alone, or cannot be compared.
    """
    with tempfile.TemporaryDirectory(dir=run.dir, prefix=".verify-") as scratch:
        trained, request = listen(run, folder, prompts, Path(scratch))
        with run.bar("loading the saved model alone", 1) as bar:
            saved = ask(request)
            bar.advance()
        _check_comparable(trained, saved, target_of(folder.path))
        return _compared(trained, saved)


def _compared(trained: Reference, saved: Answers) -> WholeProof:
    effect = trained.effect
    default = default_tolerance(
        (trained.dtype, saved.dtype), trained.quantization, trained.layers, effect
    )
    found = compare(trained.logits, saved.logits, near=default.max_error or 0.0)
    kept = max(0.0, 1 - found.error / effect) if 0 < effect < math.inf else None
    prompt, position = found.worst
    worst = f"position {position} of the prompt {trained.texts[prompt][:60]!r}"
    pairs = list(zip(trained.written, saved.written, strict=True))
    same_text = min((_same_start(a, b) for a, b in pairs), default=None)
    differences = histogram(trained.logits, saved.logits)
    return WholeProof(found, kept, same_text, worst, differences, default)


def _same_start(a: Sequence[int], b: Sequence[int]) -> int:
    differ = (n for n, (one, other) in enumerate(zip(a, b, strict=True)) if one != other)
    return next(differ, len(a))


def lacks_memory(blueprint: Blueprint, device: str) -> str | None:
    """Say that the trained or the saved model does not fit in the memory of `device` ("cpu", "cuda:0");
    None when it does, or the base is spread by a `device_map`."""
    free = memory.free_bytes(device)
    if blueprint.base.placement.device_map or free is None:
        return None
    held = max(estimate.live_bytes(blueprint.trained()), estimate.saved_bytes(blueprint))
    needed = held + (estimate.LIBRARIES if device == "cpu" else 0)
    if needed <= free:
        return None
    return f"it takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def _check_comparable(trained: Reference, saved: Answers, where: Path) -> None:
    """Raise VerificationError when the two do not even read and predict the same things."""
    if saved.token_ids != trained.token_ids:
        raise VerificationError(
            "its tokenizer reads the prompts otherwise than the one of the trained model",
            where=where,
            fix="save the folder again with `save`, which brings the right tokenizer",
        )
    shapes = [
        (tuple(a.shape), tuple(b.shape)) for a, b in zip(trained.logits, saved.logits, strict=True)
    ]
    if (other := next(((a, b) for a, b in shapes if a != b), None)) is not None:
        raise VerificationError(
            f"it predicts {other[1]} values (positions, classes), the trained model {other[0]}",
            where=where,
            fix="the vocabulary or the head differs: check which base and adapter it was made from",
        )
