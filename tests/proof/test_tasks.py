from __future__ import annotations

import pytest

from pipeline.proof.tasks import first_line, normalised


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ('"Paris."', "paris"),
        ("  The  Answer!! ", "the answer"),
        ("**Eight**, sir", "eight sir"),
        ("\u201cJa\u201d", "ja"),
        ("\uff18", "8"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_what_makes_no_other_answer_is_left_out(written: str, same: str) -> None:
    assert normalised(written) == normalised(same)


@pytest.mark.parametrize(
    ("one", "other"), [("-3.5", "3.5"), ("3.5", "35"), (".5", "5"), ("?", "!"), ("$5", "5")]
)
def test_what_makes_another_answer_is_kept(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_the_answer_is_the_first_line_that_is_not_blank() -> None:
    assert first_line("\n \n Paris \nIt is the capital.") == "Paris"
    assert first_line(" \n") == ""
