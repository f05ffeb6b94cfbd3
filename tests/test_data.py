from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import check_data_file, kind_of, read_records
from pipeline.errors import InputError


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "data.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_a_text_file_is_one_example(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("First line.\n\nSecond, größer.\n", encoding="utf-8")
    (record,) = read_records(path)
    assert record.fields == {"text": "First line.\n\nSecond, größer.\n"}


def test_each_line_is_an_example_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "a"}, "", {"text": "b"})
    records = read_records(path)
    assert [record.text("text") for record in records] == ["a", "b"]
    assert str(records[1].place) == f"{path}:3"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    assert read_records(path)[0].text("text") == "a"


def test_fields_that_no_shape_names_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "p", "completion": "c", "id": 7, "text": None})
    assert read_records(path)[0].fields == {"prompt": "p", "completion": "c"}


def test_a_limit_stops_reading_before_a_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "a"}, "not json")
    assert len(read_records(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{'text': 'a'}", "not JSON"),
        ('{"text": "a"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["a"]', "must be a JSON object, got a list"),
        ("null", "got null"),
        ("true", "got true or false"),
        ('{"prompt": "a"}', "has the fields `prompt`"),
        ("{}", "has the fields nothing"),
        ('{"messages": []}', "must be a list of objects"),
        ('{"messages": [{"role": "user"}]}', "must be a list of objects"),
        ('{"messages": "hello"}', "must be a list of objects"),
        ('{"question": " ", "choices": ["a", "b"], "answer": 0}', "`question` is empty"),
        ('{"question": 1, "choices": ["a", "b"], "answer": 0}', "`question` must be text"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "two or more different texts"),
        ('{"question": "q", "choices": ["a", " a"], "answer": 0}', "two or more different texts"),
        ('{"question": "q", "choices": ["a", 2], "answer": 0}', "two or more different texts"),
        ('{"question": "q", "choices": "ab", "answer": 0}', "two or more different texts"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "none of the choices: 2"),
        ('{"question": "q", "choices": ["a", "b"], "answer": -1}', "none of the choices: -1"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "none of the choices: True"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "c"}', "none of the choices: 'c'"),
        ('{"prompt": "p", "answer": 8}', "`answer` must be a text, or a list"),
        ('{"prompt": "p", "answer": []}', "`answer` must be a text, or a list"),
        ('{"prompt": "p", "answer": " "}', "`answer` must be a text, or a list"),
        ('{"prompt": "p", "answer": "a\\nb"}', "`answer` has several lines"),
        ('{"prompt": 7, "answer": "a"}', "`prompt` must be text"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path: Path, line: str, what: str) -> None:
    path = write(tmp_path, {"text": "a"}, line)
    with pytest.raises(InputError, match=what) as caught:
        read_records(path)
    assert caught.value.where == f"{path}:2"
    assert caught.value.fix


def test_all_bad_lines_are_told_together(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "a"}, "{", {"text": "b"}, {"txt": "c"})
    with pytest.raises(InputError, match="2 examples are wrong") as caught:
        read_records(path)
    assert f"{path}:2: not JSON" in caught.value.what
    assert f"{path}:4: the example has the fields `txt`" in caught.value.what


def test_of_very_many_bad_lines_the_first_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, *["{"] * 25)
    with pytest.raises(InputError, match="25 examples are wrong") as caught:
        read_records(path)
    assert f"{path}:20: " in caught.value.what
    assert f"{path}:21: " not in caught.value.what
    assert caught.value.what.endswith("and 5 more")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"text": "a"}, "text"),
        ({"prompt": "p", "completion": "c"}, "text"),
        ({"prompt": "p", "completion": "c", "answer": 8}, "text"),
        ({"question": "q", "choices": ["a", "b"], "answer": "b"}, "choices"),
        ({"question": "q", "choices": ["a", "b"], "answer": 1}, "choices"),
        ({"prompt": "p", "answer": ["8", "eight"]}, "answer"),
    ],
)
def test_the_fields_say_what_an_example_is_for(
    tmp_path: Path, fields: dict[str, Any], kind: str
) -> None:
    assert kind_of(read_records(write(tmp_path, fields))) == kind


def test_a_file_of_several_kinds_is_refused_with_a_line_of_each(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "a"}, {"text": "b"}, {"prompt": "p", "answer": "c"})
    with pytest.raises(InputError, match="line 1 has `text` and line 3 has `prompt`, `answer`"):
        kind_of(read_records(path))


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match="not UTF-8") as caught:
        read_records(path)
    assert caught.value.where == f"{path}:2"


def test_a_field_that_must_be_text_is_named(tmp_path: Path) -> None:
    record = read_records(write(tmp_path, {"text": 3}))[0]
    with pytest.raises(InputError, match="`text` must be text, got a number"):
        record.text("text")


def test_a_missing_file_comes_with_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, {"text": "a"})
    with pytest.raises(InputError, match="no such data file") as caught:
        check_data_file(tmp_path / "dta.jsonl")
    assert "data.jsonl" in (caught.value.fix or "")


@pytest.mark.parametrize("name", ["data.csv", "data"])
def test_other_kinds_of_file_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a,b\n")
    with pytest.raises(InputError, match="ends in"):
        check_data_file(tmp_path / name)


def test_files_without_an_example_are_refused(tmp_path: Path) -> None:
    empty, blank = tmp_path / "empty.txt", tmp_path / "blank.jsonl"
    empty.write_text("")
    blank.write_text("\n \n")
    with pytest.raises(InputError, match="empty"):
        read_records(empty)
    with pytest.raises(InputError, match="no example"):
        read_records(blank)
