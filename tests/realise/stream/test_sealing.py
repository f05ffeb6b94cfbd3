"""Hashing behind the front: the file's own hash, in whatever order its parts are written."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from pipeline.realise.stream.sealing import Front, Sealing

DATA = os.urandom(100_000)


def parts(count: int) -> list[tuple[int, int]]:
    cuts = sorted(random.Random(count).sample(range(1, len(DATA)), count - 1))
    return [(a, b - a) for a, b in zip([0, *cuts], [*cuts, len(DATA)], strict=True)]


@pytest.mark.parametrize("threads", [1, 7])
def test_the_hash_is_that_of_the_file_and_told_once(tmp_path: Path, threads: int) -> None:
    with open(tmp_path / "x", "x+b", buffering=0) as file:
        front = Front(file.fileno(), len(DATA))
        order = parts(200)
        random.Random(1).shuffle(order)

        def write(part: tuple[int, int]) -> str | None:
            at, length = part
            os.pwrite(file.fileno(), DATA[at : at + length], at)
            front.wrote(at, length)
            return front.follow(memoryview(bytearray(1000)))

        with ThreadPoolExecutor(threads) as pool:
            told = [digest for digest in pool.map(write, order) if digest]
    assert told == [blake3(DATA).hexdigest()]


def test_nothing_beyond_a_gap_is_hashed(tmp_path: Path) -> None:
    with open(tmp_path / "x", "x+b", buffering=0) as file:
        front, buffer = Front(file.fileno(), 6), memoryview(bytearray(4))
        os.pwrite(file.fileno(), b"abcd", 0)
        front.wrote(0, 2)
        front.wrote(4, 2)
        assert front.follow(buffer) is None
        os.pwrite(file.fileno(), b"CDef", 2)
        front.wrote(2, 2)
        assert front.follow(buffer) == blake3(b"abCDef").hexdigest()
        assert front.follow(buffer) is None


def test_what_goes_wrong_when_a_file_is_sealed_is_raised(tmp_path: Path) -> None:
    def refuse(path: Path, digest: str) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x"
    with open(path, "x+b", buffering=0) as file:
        file.write(b"ab")
        with Sealing({path: file.fileno()}, {path: 2}, refuse) as sealing:
            sealing.wrote(path, 0, 2, memoryview(bytearray(4)))
            with pytest.raises(OSError, match="No space"):
                sealing.wait()
