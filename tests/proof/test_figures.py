from __future__ import annotations

from pipeline.proof.figures import Figures, joined, recorded, table

THIS = Figures({"loss": 1.25, "legs.acc": 0.5}, {"tokens": 1234}, {"legs.acc_stderr": 0.1})
BASE = Figures({"loss": 1.5, "legs.acc": 0.5}, {"tokens": 1234}, {"legs.acc_stderr": 0.2})


def test_alone_every_figure_has_its_name() -> None:
    assert recorded(THIS, None) == {
        "loss": 1.25,
        "legs.acc": 0.5,
        "tokens": 1234,
        "legs.acc_stderr": 0.1,
    }


def test_beside_the_base_there_are_its_figures_and_the_change() -> None:
    found = recorded(THIS, BASE)
    assert found.items() >= recorded(THIS, None).items()
    assert {
        name: value for name, value in found.items() if name.startswith(("base.", "change."))
    } == {
        "base.loss": 1.5,
        "base.legs.acc": 0.5,
        "base.legs.acc_stderr": 0.2,
        "change.loss": -0.25,
        "change.legs.acc": 0.0,
    }


def test_the_table_has_a_line_for_each_figure_in_columns() -> None:
    assert table(THIS, BASE).splitlines() == [
        "          base  this  change",
        "loss       1.5  1.25   -0.25",
        "legs.acc   0.5   0.5       0",
        "tokens 1,234",
    ]
    assert table(THIS, None).splitlines() == ["loss      1.25", "legs.acc   0.5", "tokens 1,234"]


def test_several_measurements_of_one_model_are_joined() -> None:
    questions = Figures({"acc": 0.5}, {"questions": 2}, answers=({"line": 1}, {"line": 2}))
    both = joined([THIS, questions])
    assert list(both.values) == ["loss", "legs.acc", "acc"]
    assert both.measured_on == {"tokens": 1234, "questions": 2}
    assert both.answers == questions.answers
