"""Histograms as pictures."""

from __future__ import annotations

from pipeline.manifest import Histogram
from pipeline.report.page.histograms import bars


def test_a_column_is_as_high_as_the_logarithm_of_its_count() -> None:
    found = bars("logit_differences", Histogram(least=-1.0, most=1.0, counts=[1, 0, 1000, 10]))

    assert found
    assert [column.height for column in found.columns] == [0.25, 0.0, 1.0, 0.5]
    assert found.columns[3].says == "0.5 to 1: 10"
    assert [(line.height, line.count) for line in found.lines] == [
        (0.25, "1"),
        (0.5, "10"),
        (0.75, "100"),
        (1.0, "1 000"),
    ]
    assert (found.least, found.middle, found.most, found.values) == ("-1", "0", "1", "1 011")


def test_a_histogram_of_many_values_has_few_lines() -> None:
    found = bars("logit_differences", Histogram(least=0, most=1, counts=[10**9]))

    assert found
    assert len(found.lines) <= 5


def test_an_empty_histogram_is_not_drawn() -> None:
    assert bars("logit_differences", Histogram(least=0, most=0, counts=[])) is None
    assert bars("logit_differences", Histogram(least=0, most=1, counts=[0, 0])) is None
