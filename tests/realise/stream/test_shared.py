"""What threads make for one another: once, and no more of it than may be kept."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.realise.stream.shared import Shared


def test_it_is_made_once_however_many_threads_ask() -> None:
    shared, made = Shared(100), list[str]()

    def make() -> str:
        time.sleep(0.05)
        made.append("a")
        return "a"

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda _: shared.get("key", 1, make), range(8))] == ["a"] * 8
    assert made == ["a"]


def test_the_oldest_goes_when_there_is_too_much() -> None:
    shared, made = Shared(100), list[str]()

    def get(key: str, bytes_: int) -> None:
        def make() -> str:
            made.append(key)
            return key

        assert shared.get(key, bytes_, make) == key

    for key, bytes_ in [("a", 40), ("b", 40), ("a", 40), ("c", 40), ("a", 40), ("b", 40)]:
        get(key, bytes_)
    assert made == ["a", "b", "c", "b"]
    get("large", 500)  # one at least
    get("large", 500)
    get("a", 40)
    assert made == ["a", "b", "c", "b", "large", "a"]


def test_what_goes_wrong_is_raised_to_all_and_tried_again() -> None:
    shared, calls = Shared(100), list[int]()

    def fail() -> None:
        time.sleep(0.05)
        calls.append(1)
        raise FileNotFoundError("gone")

    def ask(_: int) -> str:
        with pytest.raises(FileNotFoundError, match="gone"):
            shared.get("key", 1, fail)
        return "told"

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(ask, range(4))] == ["told"] * 4
    assert shared.get("key", 1, lambda: "there") == "there"
