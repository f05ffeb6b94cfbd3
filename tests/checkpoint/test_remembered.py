"""Remembered hashes: of unchanged files only, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.checkpoint import hashes, remembered
from pipeline.checkpoint.hashes import hash_file, hash_inputs
from pipeline.checkpoint.remembered import LEAST_BYTES, cache_folder

LONG_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_SETTLED_NS", 0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, in order."""
    names: list[str] = []

    def reading(path: Path, *rest: object) -> str:
        names.append(path.name)
        return hash_file(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(hashes, "hash_file", reading)
    return names


def large(path: Path, byte: bytes = b"x") -> Path:
    path.write_bytes(byte * LEAST_BYTES)
    return path


def test_a_large_file_is_read_once_and_told_whole_each_time(
    tmp_path: Path, read: list[str]
) -> None:
    file, small = large(tmp_path / "large"), tmp_path / "small"
    small.write_bytes(b"s")
    first, told = hash_inputs([file, small]), []
    assert hash_inputs([file, small], told.append) == first
    assert read == ["large", "small", "small"]
    assert sum(told) == LEAST_BYTES + 1


def put_in_place(file: Path) -> None:
    large(file.with_name("new"), b"y").replace(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: large(file, b"y"),
        lambda file: file.write_bytes(b"y" * LEAST_BYTES + b"y"),
        put_in_place,
    ],
    ids=["written over", "longer", "replaced"],
)
def test_a_file_that_changed_is_hashed_anew_even_if_its_time_is_set_back(
    tmp_path: Path, change: object
) -> None:
    file = large(tmp_path / "file")
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    old = hash_inputs([file])[file]
    change(file)  # type: ignore[operator]
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    assert hash_inputs([file])[file] == hash_file(file) != old


def test_a_file_that_changed_a_moment_ago_or_while_it_was_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    file = large(tmp_path / "file")
    monkeypatch.setattr(remembered, "_SETTLED_NS", 10**18)
    hash_inputs([file])
    assert not (cache_folder() / "hashes.jsonl").exists()

    monkeypatch.setattr(remembered, "_SETTLED_NS", 0)

    def changed_meanwhile(path: Path, *rest: object) -> str:
        found = hash_file(path)
        time.sleep(0.02)
        large(path, b"z")
        return found

    monkeypatch.setattr(hashes, "hash_file", changed_meanwhile)
    hash_inputs([file])
    assert not (cache_folder() / "hashes.jsonl").exists()


def test_lines_that_are_broken_are_passed_over(tmp_path: Path, read: list[str]) -> None:
    file = large(tmp_path / "file")
    hash_inputs([file])
    memory = cache_folder() / "hashes.jsonl"
    good = memory.read_text()
    memory.write_text('{"a": 1}\n[1, 2]\n' + good + good[: len(good) // 2])
    hash_inputs([file])
    assert read == ["file"], "half a line at the end hides none before it"

    other = large(tmp_path / "other")
    hash_inputs([other])
    assert read == ["file", "other"]
    hash_inputs([file, other])
    assert read == ["file", "other"], "what is appended to half a line can still be read"

    memory.write_bytes(b"\xff" * 100)
    assert hash_inputs([file]) == {file: hash_file(file)}


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    file = large(tmp_path / "large")
    assert hash_inputs([file]) == {file: hash_file(file)}


def test_the_oldest_lines_go_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    monkeypatch.setattr(remembered, "MOST_LINES", 8)
    files = [large(tmp_path / f"{n}", bytes([n])) for n in range(10)]
    for file in files:
        hash_inputs([file])
    assert (cache_folder() / "hashes.jsonl").read_text().count("\n") <= 8
    hash_inputs(files[-2:])
    assert read == [f"{n}" for n in range(10)], "the newest are there"


def test_many_writers_lose_nothing(tmp_path: Path, read: list[str]) -> None:
    files = [large(tmp_path / f"{n}", bytes([n])) for n in range(6)]
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.checkpoint import remembered, hashes\n"
        "remembered._SETTLED_NS = 0\n"
        "hashes.hash_inputs([Path(sys.argv[1])])"
    )
    root = Path(__file__).parents[2]
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=root) for file in files
    ]
    assert [child.wait() for child in children] == [0] * 6
    hash_inputs(files)
    assert read == []
