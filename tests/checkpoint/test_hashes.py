"""Hashes of files, in parallel, with progress."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.checkpoint.hashes import hash_file, hash_files


def test_hashes_are_those_of_hashlib_and_every_byte_is_told(tmp_path: Path) -> None:
    contents = {
        tmp_path / f"{size}": bytes(range(256)) * (size // 256) for size in (0, 256, 3 << 20)
    }
    for path, data in contents.items():
        path.write_bytes(data)
    told: list[float] = []

    found = hash_files([*contents, *contents], told.append)

    assert found == {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    assert sum(told) == sum(map(len, contents.values()))
    assert len(told) >= 4, "long files tell of their progress"


def test_one_file_is_hashed_alike(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")

    assert hash_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert hash_files([]) == {}


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hash_files([tmp_path / "gone"])
