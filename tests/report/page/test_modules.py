"""Figures of modules, by layer and kind."""

from __future__ import annotations

import pytest

from pipeline.report.page.modules import heat_maps, module_table
from tests.fixtures.manifests import KINDS, modules


def test_every_figure_has_a_map_with_a_row_for_each_kind_and_a_column_for_each_layer() -> None:
    maps = heat_maps(modules(layers=5))

    assert [m.title for m in maps] == ["Size of the delta", "Delta kept", "Error of the module"]
    for found in maps:
        assert found.rows == KINDS
        assert found.columns == (0, 1, 2, 3, 4)
        assert {(cell.row, cell.column) for cell in found.cells} == {
            (row, layer) for row in range(3) for layer in range(5)
        }


def test_the_strongest_colour_is_where_the_most_is_wrong() -> None:
    _, kept, error = heat_maps(modules())

    for found in (kept, error):
        strongest = max(found.cells, key=lambda cell: cell.strength)
        assert (strongest.row, strongest.column) == (2, 3)
    assert (error.least, error.worst) == ("0 %", "25 %")
    assert (kept.least, kept.worst) == ("100 %", "50 %")


def test_a_delta_that_is_there_twice_is_as_wrong_as_one_that_is_lost() -> None:
    found = {f"layers.{n}.q": {"delta_kept": kept} for n, kept in enumerate((2.0, 1.0, 0.0))}

    (kept,) = heat_maps(found)

    assert [cell.strength for cell in kept.cells] == [1.0, 0.0, 1.0]


def test_harmless_roundings_have_faint_colours() -> None:
    kept, error = heat_maps({"layers.0.q": {"delta_kept": 0.99, "error": 0.0017}})

    assert kept.cells[0].strength < 0.03
    assert error.cells[0].strength < 0.2


def test_experts_share_a_cell_which_shows_the_worst_of_them() -> None:
    found = {
        f"layers.0.experts.{n}.up": {"error": error} for n, error in enumerate((0.1, 0.3, 0.2))
    }

    (error,) = heat_maps(found)

    assert error.rows == ("experts.*.up",)
    assert [cell.says for cell in error.cells] == ["layer 0, experts.*.up: 30 %"]


def test_two_stacks_of_layers_have_rows_of_their_own() -> None:
    found = {"encoder.block.0.q": {"error": 0.1}, "decoder.block.0.q": {"error": 0.2}}

    (error,) = heat_maps(found)

    assert error.rows == ("encoder.block.q", "decoder.block.q")


def test_a_module_outside_of_the_layers_is_in_the_table_alone() -> None:
    found = {"lm_head": {"error": 0.1}}

    table = module_table(found)

    assert heat_maps(found) == []
    assert table
    assert [row.name for row in table.rows] == ["lm_head"]


def test_the_worst_modules_are_named_first() -> None:
    table = module_table(modules(layers=8))

    assert table
    assert (len(table.rows), table.of) == (10, 24)
    assert table.rows[0].name == "model.layers.7.mlp.down_proj"
    assert [text for _, text in table.rows[0].values] == ["19 %", "50 %", "25 %"]


@pytest.mark.parametrize("word", ["inf", "nan"])
def test_a_figure_that_is_no_number_is_the_worst(word: str) -> None:
    found = {"layers.0.q": {"error": 0.5}, "layers.1.q": {"error": word}}

    (error,) = heat_maps(found)
    table = module_table(found)

    assert [cell.strength for cell in error.cells] == [1.0, 1.0]
    assert error.worst == "infinite"
    assert table
    assert table.rows[0].name == "layers.1.q"
