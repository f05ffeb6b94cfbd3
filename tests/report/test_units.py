"""Amounts read well."""

from __future__ import annotations

import pytest

from pipeline.report.units import duration, figure, printable, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_250_000, "1.2 MB"),
        (99_960_000, "100 MB"),
        (988_100_000, "988 MB"),
        (999_900_000, "1.0 GB"),
        (6_400_000_000, "6.4 GB"),
        (810_000_000_000, "810 GB"),
        (5e16, "50000 TB"),
    ],
)
def test_sizes_are_in_powers_of_a_thousand(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_never_show_sixty_of_anything(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (1.23456, "1.235"),
        (0.000012345, "1.234e-05"),
        (1234567, "1 234 567"),
        (12, "12"),
        ("as it is", "as it is"),
        (None, "-"),
    ],
)
def test_figures_are_short_and_counts_are_whole(value: float | str | None, text: str) -> None:
    assert figure(value) == text


def test_control_characters_are_made_visible_and_language_stays() -> None:
    assert printable("a\x1b[2Jb\rc\x07") == "a�[2Jb�c�"
    assert printable("Grüße, 你好\n\tこんにちは") == "Grüße, 你好\n\tこんにちは"
