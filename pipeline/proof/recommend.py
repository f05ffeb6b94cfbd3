"""Which of several merges to take, by what was measured of them.

The rule, in this order:

1. Where there is data, the loss decides: what is worse than the lowest is out. It is worse when its loss is
   higher by a hundredth of a nat, which is 1 % of the perplexity, and by two standard errors. The error is
   that of the difference, example by example, since all models read the same examples; with fewer than ten of
   them no loss counts as worse.
2. Of the rest, the one nearest to the trained model: by the mean KL divergence of its predictions, or where
   the models do not fit in memory by the mean error of its modules. What is further by a tenth at most counts
   as equal, and so does what other roundings of the same sums can do: 0.0002 nats, which `verify` sees of
   right merges in bfloat16, and 0.1 % for modules, less than one such rounding.
3. Of those, the first in the order of the table, which asks least of a recipe.

A merge that is quantized again is not among them. Whether its size is worth what it costs is for the user to
say; `price` tells what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import VerificationError
from pipeline.proof.loss import Score, total

FEWEST = 10
"""Examples from which a standard error is taken."""
_WORSE = 0.01
_ERRORS = 2.0
_AS_NEAR = 1.1


@dataclass(frozen=True)
class Measure:
    """Of the distance from the trained model."""

    name: str
    nothing: float
    """Differences that count as none; see the rule."""


KL = Measure("mean KL", 2e-4)
MODULES = Measure("mean error of the modules", 1e-3)


@dataclass(frozen=True)
class Candidate:
    """What the rule looks at."""

    name: str
    distance: float
    """From the trained model; see the rule."""
    scores: Sequence[Score] | None = None
    """On the same examples for all; None without data."""


@dataclass(frozen=True)
class Recommendation:
    """The merge to take, and why."""

    name: str
    reason: str


def recommend(candidates: Sequence[Candidate], measure: Measure) -> Recommendation:
    """Apply the rule. Raises VerificationError where no model answers with finite numbers."""
    finite = [one for one in candidates if math.isfinite(one.distance) and _finite(one.scores)]
    if not finite:
        raise VerificationError(
            "no way to merge gives a model that answers with finite numbers",
            where=", ".join(one.name for one in candidates),
            fix="load the base in a wider dtype",
        )
    good, about_loss = _of_low_loss(finite)
    nearest = min(one.distance for one in good)
    allowed = max(nearest * _AS_NEAR, nearest + measure.nothing)
    near = [one for one in good if one.distance <= allowed]
    chosen, *alike = near
    reasons = [
        about_loss,
        f"{'of the rest it' if len(good) < len(finite) else 'it'} is nearest to the trained model "
        f"({measure.name} {chosen.distance:.2g})"
        + (f", with {' and '.join(one.name for one in alike)} as near" if alike else ""),
    ]
    return Recommendation(chosen.name, "; ".join(reasons))


def price(of: Candidate, than: Candidate, measure: Measure) -> str:
    """What one costs in place of another: its distance from the trained model, and the loss on the data."""
    said = f"{measure.name} {of.distance:.2g} in place of {than.distance:.2g}"
    if of.scores is not None and than.scores is not None:
        more, error = excess(of.scores, than.scores)
        chance = f" ± {error:.4f}" if math.isfinite(error) else ""
        said += f", loss {more:+.4f}{chance}"
    return said


def excess(scores: Sequence[Score], least: Sequence[Score]) -> tuple[float, float]:
    """By how much the mean loss is above another's on the same examples, in nats for a token, and the
    standard error of that: infinite for fewer than `FEWEST` examples.

    Examples are taken as drawn at random; a mean over tokens is then a ratio of two sums, and its error that
    of a ratio estimator (Cochran, Sampling Techniques, section 6.4).
    """
    tokens = sum(score.counted for score in scores)
    more = [b.likelihood - a.likelihood for a, b in zip(scores, least, strict=True)]
    mean = math.fsum(more) / tokens
    count = len(scores)
    if count < FEWEST:
        return mean, math.inf
    rest = math.fsum((m - mean * s.counted) ** 2 for m, s in zip(more, scores, strict=True))
    return mean, math.sqrt(rest * count / (count - 1)) / tokens


def _of_low_loss(candidates: Sequence[Candidate]) -> tuple[list[Candidate], str]:
    """Those that are not worse than the best on the data, and what to say of that."""
    scored = [(one, one.scores) for one in candidates if one.scores is not None]
    if not scored:
        return list(candidates), "there is no data to tell which is better"
    least, scores_of_least = min(scored, key=lambda pair: total(pair[1]).mean)
    if len(scores_of_least) < FEWEST:
        return list(candidates), f"fewer than {FEWEST} examples do not tell losses apart"
    good, out = [], []
    for one, scores in scored:
        more, error = excess(scores, scores_of_least)
        if more >= _WORSE and more > _ERRORS * error:
            out.append(f"{one.name} (+{more:.3f} ± {error:.3f})")
        else:
            good.append(one)
    if out:
        return good, f"worse on the data than {least.name}: {', '.join(out)}"
    return good, "on the data all are equally good"


def _finite(scores: Sequence[Score] | None) -> bool:
    return scores is None or all(math.isfinite(score.likelihood) for score in scores)
