from __future__ import annotations

import math

from pipeline.proof.compare import Difference
from pipeline.proof.tolerance import Tolerance, default_tolerance

FINE = Difference(
    error=0.01, kl=0.001, top1=0.99, max_diff=0.2, mean_diff=0.1, worst=(0, 0), positions=9
)
BOUNDS = Tolerance(max_error=0.02, max_kl=0.002, min_top1=0.9, max_diff=0.3, min_kept=0.5)


def test_figures_within_the_bounds_break_none() -> None:
    assert BOUNDS.broken_by(FINE, kept=0.9) == []


def test_each_bound_that_is_broken_is_named_with_figure_and_bound() -> None:
    far = Difference(
        error=0.5, kl=0.1, top1=0.2, max_diff=4.0, mean_diff=1.0, worst=(0, 0), positions=9
    )
    assert BOUNDS.broken_by(far, kept=0.1) == [
        "relative error 0.5, at most 0.02 is allowed",
        "mean KL 0.1, at most 0.002 is allowed",
        "largest difference 4, at most 0.3 is allowed",
        "top-1 agreement 0.2, at least 0.9 is wanted",
        "share of the adapters' effect that is left 0.1, at least 0.5 is wanted",
    ]


def test_infinite_and_undefined_figures_break_a_bound() -> None:
    lost = Difference(math.nan, math.inf, math.nan, math.inf, math.inf, (0, 0), 9)
    assert len(BOUNDS.broken_by(lost, kept=None)) == 4


def test_a_bound_of_none_is_not_checked() -> None:
    far = Difference(math.inf, math.inf, 0.0, math.inf, math.inf, (0, 0), 9)
    assert Tolerance(None, None, None, None, None).broken_by(far, kept=0.0) == []


def test_an_effect_that_drowns_in_roundings_is_not_judged() -> None:
    def least(effect: float) -> float | None:
        return default_tolerance(["bfloat16"], None, layers=2, effect=effect).min_kept

    assert (least(0.02), least(0.1)) == (None, 0.5)
