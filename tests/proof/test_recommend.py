"""The rule by which one of several merges is recommended."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from pipeline.errors import VerificationError
from pipeline.proof.loss import Score
from pipeline.proof.recommend import FEWEST, KL, MODULES, Candidate, excess, price, recommend

NEAR, FAR = 1e-4, 3e-2


def scores(*losses: float, tokens: int = 1) -> list[Score]:
    """An example for each loss, in nats for a token."""
    return [Score(-loss * tokens, tokens, 0) for loss in losses]


def around(mean: float, spread: float, count: int = 50, seed: int = 0) -> list[Score]:
    chance = random.Random(seed)
    return scores(*(mean + chance.gauss(0, spread) for _ in range(count)))


def chosen(*candidates: Candidate) -> str:
    return recommend(candidates, KL).name


def two(quantized: Sequence[Score] | None, original: Sequence[Score] | None) -> list[Candidate]:
    """The trained model is near to the first of them."""
    return [
        Candidate("quantized", NEAR, quantized),
        Candidate("original", FAR, original),
    ]


def test_without_data_the_nearest_to_the_trained_model_is_taken() -> None:
    assert chosen(*two(None, None)) == "quantized"
    assert chosen(*reversed(two(None, None))) == "quantized"
    reason = recommend(two(None, None), KL).reason
    assert reason.startswith("there is no data to tell which is better")
    assert "mean KL 0.0001" in reason


def test_a_loss_that_is_clearly_lower_outweighs_nearness() -> None:
    best = recommend(two(around(2.055, 0.01), around(2.0, 0.01, seed=1)), KL)
    assert best.name == "original"
    assert best.reason.startswith("worse on the data than original: quantized (+0.05")


def test_a_difference_that_is_certain_and_tiny_does_not_count() -> None:
    same = [2.0 + n / 10 for n in range(50)]
    apart = scores(*(loss + 0.009 for loss in same))
    assert chosen(*two(apart, scores(*same))) == "quantized"
    assert chosen(*two(scores(*(loss + 0.011 for loss in same)), scores(*same))) == "original"


def test_a_difference_that_may_be_chance_does_not_count() -> None:
    apart = two(around(2.1, 1.0), around(2.0, 1.0, seed=5))
    more, error = excess(apart[0].scores or [], apart[1].scores or [])
    assert 0.01 < more < 2 * error  # large enough to matter, if it were certain
    assert chosen(*apart) == "quantized"


def test_a_few_examples_tell_no_losses_apart() -> None:
    for count, best in ((FEWEST - 1, "quantized"), (FEWEST, "original")):
        assert chosen(*two(scores(*[3.0] * count), scores(*[2.0] * count))) == best
    few = two(scores(*[3.0] * 9), scores(*[2.0] * 9))
    assert recommend(few, KL).reason.startswith("fewer than 10 examples do not tell")


def test_of_equally_near_ones_the_first_is_taken() -> None:
    first, second = Candidate("first", 0.0100), Candidate("second", 0.0095)
    third = Candidate("third", 0.0106)
    assert chosen(third, first, second) == "first"
    assert chosen(second, first) == "second"
    assert recommend([first, second], KL).reason.endswith("(mean KL 0.01), with second as near")


def test_differences_that_roundings_make_are_none() -> None:
    for measure, nothing, far in ((KL, 1e-4, 4e-4), (MODULES, 0.0008, 0.0012)):
        best = Candidate("best", 1e-6)
        assert recommend([Candidate("first", nothing), best], measure).name == "first"
        assert recommend([Candidate("first", far), best], measure).name == "best"


def test_the_price_of_another_is_told_with_its_error() -> None:
    one, other = two(scores(*[2.5] * 20), scores(*[2.0] * 20))
    assert price(one, other, KL) == "mean KL 0.0001 in place of 0.03, loss +0.5000 ± 0.0000"
    one, other = two(scores(2.5), scores(2.75))
    assert price(one, other, KL) == "mean KL 0.0001 in place of 0.03, loss -0.2500"
    one, other = two(None, None)
    assert price(one, other, MODULES) == "mean error of the modules 0.0001 in place of 0.03"


def test_a_model_that_is_not_finite_is_never_taken() -> None:
    broken = Candidate("broken", math.inf)
    silent = Candidate("silent", NEAR / 10, scores(math.nan))
    assert chosen(broken, silent, Candidate("sound", FAR, scores(9.0))) == "sound"
    with pytest.raises(VerificationError, match="no way to merge"):
        recommend([broken, silent], KL)


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    """Of examples of unlike length, whose losses go up and down together for both models."""
    chance = random.Random(7)

    def draw() -> tuple[list[Score], list[Score]]:
        one, other = [], []
        for _ in range(40):
            tokens, hard = chance.randint(1, 30), chance.gauss(2, 1)
            one.append(Score(-tokens * (hard + chance.gauss(0.1, 0.2)), tokens, 0))
            other.append(Score(-tokens * hard, tokens, 0))
        return one, other

    found = [excess(*draw()) for _ in range(2000)]
    means = [mean for mean, _ in found]
    centre = math.fsum(means) / len(means)
    spread = math.sqrt(math.fsum((mean - centre) ** 2 for mean in means) / len(means))
    assert centre == pytest.approx(0.1, abs=0.005)
    assert math.fsum(error for _, error in found) / len(found) == pytest.approx(spread, rel=0.07)
