"""Mistakes that come together, or follow from each other: each is told once, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import COMMAND_LINE, Place
from tests.fixtures.recipes import BASE, in_line
from tests.recipe.conftest import Problems


def test_all_mistakes_come_together_in_the_order_of_the_file(problems_of: Problems) -> None:
    text = (
        "seed: x\n"
        "params: {dtype: floot16}\n"
        "steps:\n"
        "  - lod_base: {model: x}\n"
        "  - attach_adapter\n"
        "  - save: {path: a, path: b, overwrite: 3}\n"
        "  - save: {dtype: '${params.dtype}', path: '${params.nope}'}\n"
    )
    found = problems_of(text, "save.dtpye=1", "params.nope=1", "save.max_shard_size=big")
    assert [(p.place.line if p.place else 0, p.key) for p in found] == [
        (1, "seed"),
        (2, "params.dtype"),
        (4, None),
        (5, "attach_adapter.path"),
        (6, "save.path"),
        (6, "save.overwrite"),
        (7, "save_2.path"),
        (None, "save.dtpye"),
        (None, "params.nope"),
        (None, "save.max_shard_size"),
    ]


def test_beside_a_step_that_is_not_understood_the_command_line_is_checked(
    problems_of: Problems,
) -> None:
    text = f"{BASE}  - svae: {{id: out}}\n  - svae\n  - save: 3\n"
    found = problems_of(
        text, "out.dtype=x", "save_2.dtype=x", "svae.x=1", "save=y", "other.dtype=x", "sede=1"
    )
    assert [p.key for p in found if p.place == COMMAND_LINE] == ["other.dtype", "sede"]


def test_beside_a_wrong_param_the_names_of_params_are_checked(problems_of: Problems) -> None:
    text = f"params: {{base: x, base: y}}\n{BASE}"
    _, said = problems_of(text, "params.bsae=x")
    assert said.fix == "did you mean 'params.base'?"


def test_what_only_hydra_finds_wrong_is_told_plainly(problems_of: Problems) -> None:
    (problem,) = problems_of(f"{BASE}  - save\n", "~save", "save.dtype=float16")
    assert (problem.key, problem.what) == ("save.dtype", "there is no key 'save'")


def test_two_steps_with_one_id_are_told_at_the_second(problems_of: Problems) -> None:
    (problem,) = problems_of(f"{BASE}  - save: {{id: out}}\n  - save: {{id: out, path: b}}\n")
    assert problem.place == Place("r.yaml", 4, 5)
    assert "line 3" in problem.what


def test_a_wrong_value_is_told_where_it_stands_and_how_it_is_used(problems_of: Problems) -> None:
    (problem,) = problems_of(in_line("- save: {dtype: '${params.dtype}'}"))
    assert (problem.place, problem.key) == (Place("r.yaml", 2, 3), "params.dtype")
    assert "(as save.dtype)" in problem.what


def test_a_wrong_value_that_nobody_wrote_is_told_where_it_is_used(problems_of: Problems) -> None:
    (problem,) = problems_of(in_line("- save: {dtype: '${run.dir}'}"))
    assert (problem.place, problem.key) == (Place("r.yaml", 5, 12), "save.dtype")


def test_a_value_from_the_command_line_is_told_there(problems_of: Problems) -> None:
    text = f"params: {{dtype: float16}}\n{BASE}  - save: {{dtype: '${{params.dtype}}'}}\n"
    (problem,) = problems_of(text, "params.dtype=half")
    assert (problem.place, problem.key) == (COMMAND_LINE, "params.dtype")


def test_what_depends_on_a_mistake_is_not_told_again(problems_of: Problems) -> None:
    text = (
        "params: {root: '${params.rot}', base: '${params.root}/b'}\n"
        "steps:\n  - load_base: {model: '${params.base}'}\n  - save: {path: '${params.root}/x'}\n"
    )
    (problem,) = problems_of(text)
    assert (problem.key, problem.place) == ("params.root", Place("r.yaml", 1, 10))


def test_a_cycle_is_told_for_its_members_only(problems_of: Problems) -> None:
    text = "params: {a: '${params.b}', b: '${params.a}'}\nsteps:\n  - load_base: {model: '${params.a}'}\n"
    assert [problem.key for problem in problems_of(text)] == ["params.a", "params.b"]


def test_a_param_that_must_be_given(problems_of: Problems) -> None:
    text = "params: {base: ???, other: ???}\nsteps:\n  - load_base: {model: '${params.base}'}\n"
    text = text.replace("???", "'???'")
    other, base = problems_of(text)
    assert (base.key, base.fix) == ("load_base.model", "on the command line: params.base=VALUE")
    assert (other.key, other.fix) == (
        "params.other",
        "give it on the command line: params.other=VALUE",
    )
    assert problems_of(text, "params.base=x", "params.other=y") == []


def test_steps_in_the_wrong_order_say_which_to_move(problems_of: Problems) -> None:
    text = "steps:\n  - load_base: {model: x}\n  - merge\n  - attach_adapter: {path: a}\n"
    (problem,) = problems_of(text)
    assert problem.place == Place("r.yaml", 3, 5)
    assert problem.fix == "move `attach_adapter` (line 4) up before it"


def test_a_missing_base_is_told_once(problems_of: Problems) -> None:
    (problem,) = problems_of("steps: [save, verify, dequantize]\n")
    assert (problem.key, problem.fix) == ("save", "put `- load_base` before it")


def test_a_trained_adapter_can_be_merged(problems_of: Problems) -> None:
    assert problems_of(f"{BASE}  - train_adapter: {{data: d}}\n  - merge\n") == []


def test_a_misspelt_step_makes_what_it_seems_to_be(problems_of: Problems) -> None:
    found = problems_of(
        "steps:\n  - lod_base: {model: x}\n  - attach_adapter: {path: a}\n  - merge\n"
    )
    assert [problem.place and problem.place.line for problem in found] == [2]


def test_presets_of_ones_own_are_checked_too(problems_of: Problems, tmp_path: Path) -> None:
    folder = tmp_path / "conf/step/save"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text("# mine\ndtype: floot16\nphat: x\n")
    (folder / "broken.yaml").write_text("dtype: [\n")
    found = problems_of(f"{BASE}  - save: bad\n  - save: broken\n", config_dir=tmp_path / "conf")
    assert [(str(p.place).rpartition("/")[2], p.key) for p in found] == [
        ("bad.yaml:2:1", "save.dtype"),
        ("bad.yaml:3:1", "save.phat"),
        ("broken.yaml:2:1", None),
    ]


def test_a_config_dir_that_is_not_there(problems_of: Problems, tmp_path: Path) -> None:
    (problem,) = problems_of(BASE, config_dir=tmp_path / "nope")
    assert (problem.place, problem.key) == (COMMAND_LINE, "--config-dir")
    assert "there is no folder" in problem.what


@pytest.mark.parametrize(
    ("file", "text", "said", "words"),
    [
        ("step/save/a.yaml", "defaults: {a: b}\n", "save=a", "defaults must be a list"),
        ("step/save/b.yaml", "defaults: [nope]\n", "save=b", "Could not load 'step/save/nope'"),
        ("step/save/c.yaml", "- a\n", "save=c", "must be a mapping"),
        (
            "more/d.yaml",
            "# @package _global_\nsteps: {extra: {a: 1}}\n",
            "+more=d",
            "is no step of the recipe's list",
        ),
        ("more/e.yaml", "a: [\n", "+more=e", "while parsing a flow node"),
    ],
)
def test_whatever_is_wrong_with_a_config_of_ones_own_is_a_problem(
    problems_of: Problems, tmp_path: Path, file: str, text: str, said: str, words: str
) -> None:
    path = tmp_path / "conf" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (problem,) = problems_of(f"{BASE}  - save\n", said, config_dir=tmp_path / "conf")
    assert words in problem.what


def test_what_is_left_out_on_the_command_line_can_be_missed(problems_of: Problems) -> None:
    (problem,) = problems_of(f"{BASE}  - save\n", "~load_base")
    assert (problem.key, problem.fix) == ("save", "put `- load_base` before it")
