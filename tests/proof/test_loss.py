"""Losses as they are told."""

from __future__ import annotations

import math

from pipeline.proof.loss import Loss


def test_a_perplexity_is_infinite_where_it_is_too_large_and_nan_where_the_loss_is() -> None:
    assert Loss(20.0, 10, 0).perplexity == math.exp(2)
    assert Loss(7100.0, 10, 0).perplexity == math.inf
    assert math.isnan(Loss(math.nan, 10, 0).perplexity)
