"""`for_each`: which branches there are, what they are called, and what is wrong with those that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.recipe.conftest import Load, Problems

RECIPE = """\
params: {adapters: null}
steps:
  - load_base: {model: x}
  - attach_adapter: {%s}
  - merge
  - save: {path: "${run.dir}/${branch.name}"}
"""


def attached(load_text: Load, for_each: str, *overrides: str) -> dict[str, tuple[str, float]]:
    """Path and weight of the adapter of each branch."""
    recipe = load_text(RECIPE % f"for_each: {for_each}", *overrides)
    found = [call for call in recipe.steps if call.line == "attach_adapter"]
    return {"-".join(c.branch): (c.settings.path, c.settings.weight) for c in found}


def folders(*names: str) -> None:
    for name in names:
        Path(name).mkdir(parents=True)


def test_a_pattern_stands_for_the_folders_that_match_in_the_order_of_their_numbers(
    load_text: Load, tmp_path: Path
) -> None:
    folders(*(str(tmp_path / f"ad/step-{n}") for n in (10, 9, 100)))
    (tmp_path / "ad" / "step-11").write_text("a file")
    found = attached(load_text, "'ad/*'")
    assert list(found) == ["step-9", "step-10", "step-100"]
    assert found["step-9"] == ("ad/step-9", 1.0)


def test_each_line_from_there_on_stands_once_for_each_branch_side_by_side(load_text: Load) -> None:
    recipe = load_text(RECIPE % "for_each: [./a, owner/b]")
    assert [call.id for call in recipe.steps] == [
        "load_base",
        "attach_adapter.a",
        "attach_adapter.b",
        "merge.a",
        "merge.b",
        "save.a",
        "save.b",
    ]
    assert [call.line for call in recipe.steps[4:]] == ["merge", "save", "save"]
    last = recipe.steps[-1]
    assert last.settings.path == f"{recipe.run_dir}/b"
    assert recipe.resolved["steps"]["save.b"]["path"] == last.settings.path
    assert recipe.place("save.b.path").line == 6


@pytest.mark.parametrize(
    ("for_each", "names"),
    [
        ("[x/one/adapter, x/two/adapter]", ["one-adapter", "two-adapter"]),
        ("[./a, ../a/b]", ["a", "b"]),
        ("[{path: a, weight: 0.5}, {path: a, weight: 2}]", ["a-0.5", "a-2"]),
        ("[a b, 'c:d']", ["a-b", "c-d"]),
        ("{weak: {path: a, weight: 0.3}, strong: a}", ["weak", "strong"]),
    ],
)
def test_names_tell_the_branches_apart(load_text: Load, for_each: str, names: list[str]) -> None:
    assert list(attached(load_text, for_each)) == names


def test_what_one_branch_sets_is_no_other_branch_s(load_text: Load) -> None:
    found = attached(load_text, "[{path: a, weight: 0.5}, {path: b}]")
    assert found == {"a-0.5": ("a", 0.5), "b": ("b", 1.0)}


def test_what_a_folder_is_called_is_not_resolved(
    load_text: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "told")
    folders(str(tmp_path / "ad" / "${oc.env:SECRET}"))
    found = attached(load_text, "'ad/*'")
    assert found == {"oc.env-SECRET": ("ad/${oc.env:SECRET}", 1.0)}


def test_a_second_one_parts_each_branch_again(load_text: Load) -> None:
    recipe = load_text(
        (RECIPE % "for_each: [a, b]").replace(
            'name}"}', 'name}", for_each: [{dtype: float16}, {dtype: keep}]}'
        )
    )
    saved = {call.id: (call.settings.dtype, call.branch) for call in recipe.steps[5:]}
    assert saved == {
        "save.a-float16": ("float16", ("a", "float16")),
        "save.a-keep": ("keep", ("a", "keep")),
        "save.b-float16": ("float16", ("b", "float16")),
        "save.b-keep": ("keep", ("b", "keep")),
    }


def test_a_value_may_refer_to_what_its_branch_has(load_text: Load) -> None:
    text = (RECIPE % "for_each: [a, b]").replace("branch.name", "steps.attach_adapter.path")
    paths = [call.settings.path for call in load_text(text).steps if call.line == "save"]
    assert [Path(path).name for path in paths] == ["a", "b"]


@pytest.mark.parametrize(
    "override",
    ["params.adapters=[a,b]", "attach_adapter.for_each=[a,b]", "attach_adapter.for_each={a:a,b:b}"],
)
def test_the_command_line_says_which(load_text: Load, override: str) -> None:
    assert list(attached(load_text, "'${params.adapters}'", override)) == ["a", "b"]


def test_equal_recipes_have_equal_fingerprints_whatever_the_folder(load_text: Load) -> None:
    text = RECIPE % "for_each: [a, b]"
    one, two = load_text(text), load_text(text, "hydra.run.dir=elsewhere")
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != load_text(RECIPE % "for_each: [a, c]").fingerprint


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        ("for_each: 'none/*'", "no folder matches none/*", "the folder that it starts from"),
        ("for_each: []", "has no values", "give a pattern"),
        ("for_each: [a, a]", "two of the values are the same", "name the branches"),
        ("for_each: {'a/b': x}", "'a/b' cannot be the name of a branch", "letters"),
        ("for_each: [[a]]", "does not say which option", "{option: value}"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(
    problems_of: Problems, options: str, what: str, fix: str
) -> None:
    (problem,) = problems_of(RECIPE % options)
    assert what in problem.what
    assert fix in str(problem.fix)
    assert (problem.key, problem.place and problem.place.line) == ("attach_adapter.for_each", 4)


def test_all_that_is_wrong_is_told_at_once(problems_of: Problems) -> None:
    text = (RECIPE % "for_each: []").replace('name}"}', 'name}", for_each: [{dtype: int3}], x: 1}')
    told = [(problem.key, problem.what.partition(",")[0]) for problem in problems_of(text)]
    assert told == [
        ("attach_adapter.for_each", "has no values"),
        ("save.dtype", "must be one of keep"),
        ("save.x", "`save` has no option 'x'"),
    ]


def test_an_option_that_is_none_of_the_step_s_is_told_once(problems_of: Problems) -> None:
    (problem,) = problems_of(RECIPE % "for_each: [{path: a, wieght: 1}, {path: b, wieght: 2}]")
    assert problem.what == "`attach_adapter` has no option 'wieght'"


@pytest.mark.parametrize(
    "text",
    [
        RECIPE % "path: a",
        (RECIPE % "for_each: [a]").replace("model: x", "model: '${branch.name}'"),
    ],
    ids=["nowhere", "not yet"],
)
def test_where_there_are_no_branches_none_has_a_name(problems_of: Problems, text: str) -> None:
    (problem,) = problems_of(text)
    assert "there are no branches here" in problem.what


def test_two_branches_of_one_name_are_refused(problems_of: Problems) -> None:
    text = (RECIPE % "for_each: {a: x, a-b: x}").replace(
        'name}"}', 'name}", for_each: {b-c: {dtype: keep}, c: {dtype: float16}}}'
    )
    (problem,) = problems_of(text)
    assert problem.what == "two branches would be called 'a-b-c'"


def test_a_step_cannot_be_called_branch(problems_of: Problems) -> None:
    text: Any = (RECIPE % "id: branch, path: a").replace("${branch.name}", "x")
    (problem,) = problems_of(text)
    assert "'branch' cannot be the id of a step" in problem.what
