"""Hashing behind the front: the file's own hash, in whatever order its parts are written."""

from __future__ import annotations

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from pipeline.realise.stream.sealing import Front, Sealing

DATA = os.urandom(100_000)


def parts(count: int) -> list[tuple[int, int]]:
    cuts = sorted(random.Random(count).sample(range(1, len(DATA)), count - 1))
    return [(a, b - a) for a, b in zip([0, *cuts], [*cuts, len(DATA)], strict=True)]


@pytest.mark.parametrize("kept", [0, 0.5, 1], ids=["read again", "some of each", "from memory"])
@pytest.mark.parametrize("threads", [1, 7])
def test_the_hash_is_that_of_the_file_and_told_once(
    tmp_path: Path, threads: int, kept: float
) -> None:
    given: list[memoryview] = []
    chance = random.Random(2)
    with open(tmp_path / "x", "x+b", buffering=0) as file:
        front = Front(file.fileno(), len(DATA), given.append)
        order = parts(200)
        random.Random(1).shuffle(order)

        def write(part: tuple[int, int]) -> str | None:
            at, length = part
            data = memoryview(DATA[at : at + length])
            if chance.random() < kept:
                front.wrote(at, length, (data, data))
            else:
                os.pwrite(file.fileno(), data, at)
                front.wrote(at, length, None)
            return front.follow()

        with ThreadPoolExecutor(threads) as pool:
            told = [digest for digest in pool.map(write, order) if digest]
    assert told == [blake3(DATA).hexdigest()]
    assert len(given) == (200 if kept == 1 else 0) or kept == 0.5


def test_nothing_beyond_a_gap_is_hashed(tmp_path: Path) -> None:
    with open(tmp_path / "x", "x+b", buffering=0) as file:
        front = Front(file.fileno(), 6, lambda buffer: None)
        os.pwrite(file.fileno(), b"abcd", 0)
        front.wrote(0, 2, None)
        front.wrote(4, 2, None)
        assert front.follow() is None
        assert front.comes_next(2)
        os.pwrite(file.fileno(), b"CDef", 2)
        front.wrote(2, 2, None)
        assert front.follow() == blake3(b"abCDef").hexdigest()
        assert front.follow() is None


def test_a_front_may_be_given_up_by_many_threads_at_once() -> None:
    piece = memoryview(b"x"), memoryview(b"x")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(50):
                given: list[memoryview] = []
                front = Front(0, 1 << 40, given.append)
                for at in range(1, 1000):
                    front.wrote(at, 1, piece)
                for done in [pool.submit(front.give_up) for _ in range(4)]:
                    done.result()
                assert len(given) == 999
    finally:
        sys.setswitchinterval(before)


def test_what_goes_wrong_when_a_file_is_sealed_is_raised() -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    with Sealing() as sealing:
        sealing.begin(refuse)
        with pytest.raises(OSError, match="No space"):
            sealing.wait()
