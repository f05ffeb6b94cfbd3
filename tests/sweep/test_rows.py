"""Files of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.sweep.rows import read_rows


def test_csv_has_keys_in_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text('\ufeffsave.dtype, load_base\nfloat16,nf4\n\n"[a,b]",\n', encoding="utf-8")
    rows = read_rows(file)
    assert [row.overrides for row in rows] == [
        ("save.dtype=float16", "load_base=nf4"),
        ("save.dtype=[a,b]",),
    ]
    assert str(rows[1].place) == f"{file}:4"


def test_jsonl_has_plain_values(tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text(
        '{"a": "x, y", "b": 0.5, "c": null, "d": [1, "two"], "e": {"k": true}}\n\n{"load_base": "nf4"}\n'
    )
    first, second = read_rows(file)
    assert first.overrides == ("a='x, y'", "b=0.5", "c=null", "d=[1,two]", "e={k:true}")
    assert second.overrides == ("load_base=nf4",)
    assert second.place.line == 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("jobs.txt", b"", "is not known"),
        ("jobs.csv", b"", "has no rows"),
        ("jobs.csv", b"a,b\n1,2,3\n", "has 3 cells, and there are 2 keys"),
        ("jobs.csv", b"\xff\xfe", "is not UTF-8"),
        ("jobs.jsonl", b'{"a": 1}\n{"a"', "is not JSON"),
        ("jobs.jsonl", b"[1]\n", "is no object"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, text: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(RecipeError, match=said):
        read_rows(tmp_path / name)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        read_rows(tmp_path / "jobs.csv")
