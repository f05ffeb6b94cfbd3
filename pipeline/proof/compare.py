"""How far one model's predictions are from another's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.manifest import Histogram

if TYPE_CHECKING:
    import torch

_BINS = 61
"""An odd number, so that differences of nothing share the bin in the middle."""


@dataclass(frozen=True)
class Difference:
    """What sets a model apart from the one it should be, over all positions of all prompts."""

    error: float
    """Norm of the difference of the logits, over the norm of the logits about their mean."""
    kl: float
    """Mean over positions of KL(reference || other), in nats."""
    top1: float
    """Share of positions whose likeliest class is the same, or as likely within `near`."""
    max_diff: float
    """Largest absolute difference of a logit."""
    mean_diff: float
    """Mean absolute difference."""
    worst: tuple[int, int]
    """Prompt and position (both from 0) where the error is largest."""
    positions: int


def compare(
    reference: Iterable[torch.Tensor], other: Iterable[torch.Tensor], *, near: float = 0.0
) -> Difference:
    """Compare predictions, one (positions, classes) float tensor for each prompt.

    Two classes count as equally likely when their logits are within `near` times the root mean square
    of the position's logits about their mean: in low precision the first place is often shared. A
    value that is not a number makes every figure infinite, or no agreement.
    """
    import torch

    squares, spread, kls, agree, largest, total, numbers = 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0
    worst, worst_at, positions = -1.0, (0, 0), 0
    for prompt, (a, b) in enumerate(zip(reference, other, strict=True)):
        a, b = a.double(), b.double()
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            bad = (~(torch.isfinite(a) & torch.isfinite(b)).all(dim=-1)).nonzero()[0].item()
            return Difference(
                math.inf, math.inf, 0.0, math.inf, math.inf, (prompt, int(bad)), len(a)
            )
        centred = a - a.mean(dim=-1, keepdim=True) if a.shape[-1] > 1 else a
        by_row = (a - b).square().sum(dim=-1)
        squares += by_row.sum().item()
        spread += centred.square().sum().item()
        log_a, log_b = torch.log_softmax(a, dim=-1), torch.log_softmax(b, dim=-1)
        kls += (log_a.exp() * (log_a - log_b)).sum().item()
        gap = a.amax(dim=-1) - a.gather(-1, b.argmax(dim=-1, keepdim=True))[:, 0]
        agree += int((gap <= near * centred.square().mean(dim=-1).sqrt()).sum())
        largest = max(largest, (a - b).abs().amax().item())
        total, numbers = total + (a - b).abs().sum().item(), numbers + a.numel()
        if by_row.amax().item() > worst:
            worst, worst_at = by_row.amax().item(), (prompt, int(by_row.argmax()))
        positions += len(a)
    return Difference(
        error=(squares / spread) ** 0.5 if spread else float(squares > 0),
        kl=max(kls / positions, 0.0),
        top1=agree / positions,
        max_diff=largest,
        mean_diff=total / numbers,
        worst=worst_at,
        positions=positions,
    )


def histogram(reference: Iterable[torch.Tensor], other: Iterable[torch.Tensor]) -> Histogram | None:
    """How the differences of single predictions spread, as far to the left as to the right of 0.

    The tensors are those that `compare` takes, and are gone through twice. None where all are equal, or one
    is not a number.
    """
    import torch

    pairs = partial(zip, reference, other, strict=True)
    furthest = [(b.double() - a.double()).abs().amax().item() for a, b in pairs()]
    largest = max(furthest, default=0.0)
    if not largest or not all(map(math.isfinite, furthest)):
        return None
    counts = torch.zeros(_BINS, dtype=torch.float64)
    for a, b in pairs():
        counts += torch.histc(b.double() - a.double(), bins=_BINS, min=-largest, max=largest)
    return Histogram(least=-largest, most=largest, counts=[int(count) for count in counts])
