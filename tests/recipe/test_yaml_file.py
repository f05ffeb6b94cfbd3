"""YAML as people really write it: places, duplicate keys, and everything that is not YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Place
from pipeline.recipe.yaml_file import parse_yaml, read_yaml


def test_every_key_and_item_has_its_place() -> None:
    document = parse_yaml("params:\n  base: x\nsteps:\n  - merge\n  - save: {path: y}\n", "r.yaml")
    assert document.data == {"params": {"base": "x"}, "steps": ["merge", {"save": {"path": "y"}}]}
    assert document.place(("params", "base")) == Place("r.yaml", 2, 3)
    assert document.place(("steps", 0)) == Place("r.yaml", 4, 5)
    assert document.place(("steps", 1, "save", "path")) == Place("r.yaml", 5, 12)


def test_a_place_that_is_unknown_is_that_of_what_is_around_it() -> None:
    document = parse_yaml("a:\n  b: 1\n", "r.yaml")
    assert document.place(("a", "nope", 3)) == Place("r.yaml", 1, 1)
    assert document.place(("nope",)) == Place("r.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5", 1.5),
        ("0x10", 16),
        ("yes", True),
        ("2026-11-22", "2026-11-22"),
        ("'1'", "1"),
    ],
)
def test_scalars_mean_what_they_mean_to_hydra(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}", "r.yaml").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_duplicate_key_is_told_with_both_lines() -> None:
    (problem,) = parse_yaml("a: 1\nb: 2\na: 3\n", "r.yaml").problems
    assert problem.place == Place("r.yaml", 3, 1)
    assert problem.key == "a"
    assert "line 1" in problem.what


def test_duplicates_are_found_at_every_depth_and_all_at_once() -> None:
    text = "steps:\n  - save:\n      path: a\n      path: b\n  - merge: {safe: true, safe: false}\n"
    places = [problem.place for problem in parse_yaml(text, "r.yaml").problems]
    assert places == [Place("r.yaml", 4, 7), Place("r.yaml", 5, 25)]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "empty"),
        ("# only a comment\n", None, "empty"),
        ("- a\n", 1, "not a list"),
        ("3\n", 1, "not a number"),
        ("null\n", 1, "not nothing"),
        ("a:\n\tb: 1\n", 2, "'\\t'"),
        ("a: {b: ${c}}\n", 1, "is not YAML"),
        ("a: 'open\n", 2, "unexpected end"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: \x01\n", 1, "U+0001"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("a: !mine x\n", 1, "tag"),
        ("1: x\n", 1, "a key must be text"),
        ("? [a]\n: b\n", 1, "a key must be text"),
        ("a: &x [*x]\n", 1, "contains it"),
        ("a: " + "[" * 60 + "]" * 60, None, "levels deep"),
        ("a: " + "[" * 5000 + "]" * 5000, None, "too deeply"),
    ],
)
def test_what_is_not_a_mapping_of_plain_values_is_one_problem(
    text: str, line: int | None, words: str
) -> None:
    (problem,) = parse_yaml(text, "r.yaml").problems
    assert problem.place is not None
    assert (problem.place.file, problem.place.line) == ("r.yaml", line)
    assert words in problem.what


def test_broken_yaml_shows_the_line_and_what_to_do() -> None:
    (problem,) = parse_yaml("a:\n  b: {model: ${params.base}}\n", "r.yaml").problems
    assert problem.fix is not None
    assert "b: {model: ${params.base}}" in problem.fix
    assert '"${params.name}"' in problem.fix


def test_aliases_and_merge_keys_work_but_cannot_explode() -> None:
    document = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "r.yaml")
    assert document.data["b"] == {"x": 1, "y": 3}
    bomb = "a0: &a0 [1, 1]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    (problem,) = parse_yaml(bomb, "r.yaml").problems
    assert "values" in problem.what


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: caf\xe9\n", "UTF-8"),
        ("a: b".encode("utf-16"), "UTF-8"),
        (b"a: " + b"x" * (1 << 20), "larger than 1 MB"),
    ],
)
def test_a_file_that_is_no_text_is_a_problem(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    (problem,) = read_yaml(file).problems
    assert words in problem.what


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(file).data == {"a": 1}
