from __future__ import annotations

import math

import pytest
import torch

from pipeline.proof.compare import compare, histogram

A = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 4.0]])


def test_equal_predictions_differ_in_nothing() -> None:
    found = compare([A, A], [A.clone(), A.clone()])
    assert (found.error, found.kl, found.max_diff, found.top1, found.positions) == (0, 0, 0, 1, 4)


def test_figures_are_those_of_their_definitions() -> None:
    b = A + torch.tensor([[0.1, -0.2, 0.0], [0.0, 0.3, 0.0]])
    found = compare([A], [b])
    centred = A - A.mean(dim=-1, keepdim=True)
    assert found.error == pytest.approx(((A - b).norm() / centred.norm()).item(), rel=1e-5)
    kl = torch.nn.functional.kl_div(
        b.log_softmax(-1), A.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert found.kl == pytest.approx(kl.mean().item(), rel=1e-4)
    assert found.max_diff == pytest.approx(0.3, rel=1e-5)
    assert found.mean_diff == pytest.approx(0.1, rel=1e-5)
    assert found.worst == (0, 1)


def test_the_worst_position_is_found_among_prompts() -> None:
    b = A.clone()
    b[0, 2] += 5
    assert compare([A, A], [A, b]).worst == (1, 0)


def test_another_first_place_is_a_disagreement_unless_it_was_nearly_shared() -> None:
    a = torch.tensor([[2.0, 1.99, -4.0], [2.0, 1.0, -3.0]])
    b = torch.tensor([[1.99, 2.0, -4.0], [1.0, 2.0, -3.0]])
    assert compare([a], [b]).top1 == 0.0
    assert compare([a], [b], near=0.05).top1 == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_value_that_is_no_number_is_never_close(bad: float, side: int) -> None:
    broken = A.clone()
    broken[1, 0] = bad
    pair = [[A, broken], [A, A]] if side == 0 else [[A, A], [A, broken]]
    found = compare(*pair)
    assert (found.error, found.kl, found.max_diff, found.top1) == (math.inf,) * 3 + (0.0,)
    assert found.worst == (1, 1)


def test_a_single_class_is_compared_by_its_value() -> None:
    found = compare([torch.tensor([[2.0]])], [torch.tensor([[1.0]])])
    assert found.error == pytest.approx(0.5)
    assert found.kl == 0.0


def test_every_difference_is_in_the_histogram_whose_middle_is_nothing() -> None:
    b = A + torch.tensor([[0.5, -0.5, 0.0], [0.0, 1.0, 0.0]])

    found = histogram([A, A], [b, A])

    assert found
    assert (found.least, found.most) == (-1.0, 1.0)
    middle = len(found.counts) // 2
    assert {at - middle: count for at, count in enumerate(found.counts) if count} == {
        -15: 1,
        0: 9,
        15: 1,
        30: 1,
    }


@pytest.mark.parametrize("bad", [0.0, math.inf, math.nan])
def test_differences_of_nothing_and_of_what_is_no_number_have_no_histogram(bad: float) -> None:
    b = A.clone()
    b[1, 1] += bad
    assert histogram([A, A], [A, b]) is None
    assert histogram([A, A], [b, A]) is None
