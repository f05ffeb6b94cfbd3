"""Hashes of files, in parallel, with progress."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from blake3 import blake3

from pipeline.checkpoint.hashes import HashingAside, hash_file, hash_files


def test_hashes_are_those_of_blake3_and_every_byte_is_told(tmp_path: Path) -> None:
    contents = {
        tmp_path / f"{size}": bytes(range(256)) * (size // 256) for size in (0, 256, 3 << 20)
    }
    for path, data in contents.items():
        path.write_bytes(data)
    told: list[float] = []

    found = hash_files([*contents, *contents], told.append)

    assert found == {path: blake3(data).hexdigest() for path, data in contents.items()}
    assert sum(told) == sum(map(len, contents.values()))
    assert len(told) >= 4, "long files tell of their progress"


def test_one_file_is_hashed_alike(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")

    assert hash_file(tmp_path / "x") == blake3(b"abc").hexdigest()
    assert hash_files([]) == {}


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hash_files([tmp_path / "gone"])


def test_files_are_hashed_aside_and_every_byte_is_told_in_the_end(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 5_000_000)
    told: list[float] = []
    hashing = HashingAside(files)

    assert hashing.result(told.append) == hash_files(files)
    assert sum(told) == hashing.bytes == 10_000_000
    hashing.stop()


def test_hashing_aside_is_given_up_at_once(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with open(file, "wb") as sparse:
        sparse.truncate(200 << 30)
    hashing = HashingAside([file])
    started = time.perf_counter()
    hashing.stop()
    assert time.perf_counter() - started < 5
    with pytest.raises(CancelledError):
        hashing.result(lambda count: None)
