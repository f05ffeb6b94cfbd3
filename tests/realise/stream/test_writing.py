"""Files that many threads write in stretches: every byte in its place, past the page cache and through it."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from pipeline.realise.stream import writing
from pipeline.realise.stream.writing import PAGE, Chunks, OutputFile, set_aside

DATA = os.urandom(150 * PAGE + 777)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SMALL", PAGE)


Open = Callable[..., OutputFile]


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Open]:
    """Makes the file `x` of the size of DATA; `told` gets its hash."""
    descriptors: list[int] = []

    def make(told: list[str], direct: bool, chunks: Chunks) -> OutputFile:
        path = tmp_path / "x"
        descriptors.append(file := os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        os.truncate(path, len(DATA))
        past = None
        if direct:
            try:
                descriptors.append(past := os.open(path, os.O_WRONLY | os.O_DIRECT))
            except OSError:
                pytest.skip("the file system of the tests' folder cannot write past its cache")
        return OutputFile(file, past, len(DATA), chunks, told.append)

    yield make
    for descriptor in descriptors:
        os.close(descriptor)


def stretches(count: int) -> list[tuple[int, int]]:
    cuts = sorted(random.Random(count).sample(range(1, len(DATA)), count - 1))
    return list(zip([0, *cuts], [*cuts, len(DATA)], strict=True))


def write(file: OutputFile, chunks: Chunks, first: int, end: int) -> None:
    """Half from memory that is elsewhere, half filled in place."""
    middle = (first + end) // 2
    with chunks.at_work(), closing(file.stretch(first)) as out:
        out.put(memoryview(DATA)[first:middle])
        while middle < end:
            room = out.room()[: end - middle]
            room[:] = DATA[middle : middle + len(room)]
            out.filled(len(room))
            middle += len(room)
        out.finish()


@pytest.mark.parametrize("direct", [True, False], ids=["past the cache", "through it"])
@pytest.mark.parametrize("order", ["in order", "shuffled"])
@pytest.mark.parametrize("threads", [1, 4])
def test_every_byte_is_in_its_place_and_the_hash_is_that_of_the_file(
    new: Open, tmp_path: Path, direct: bool, order: str, threads: int
) -> None:
    todo = stretches(60)
    if order == "shuffled":
        random.Random(3).shuffle(todo)
    chunks, told = Chunks(2 * PAGE, threads + 4), list[str]()
    file = new(told, direct, chunks)
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(write, file, chunks, *one) for one in todo]:
            future.result()
    file.sync()
    assert (tmp_path / "x").read_bytes() == DATA
    assert told == [blake3(DATA).hexdigest()]


def test_what_is_far_ahead_waits_in_no_more_memory_than_it_may(
    new: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = writing.mmap.mmap

    def counting(*arguments: Any) -> Any:
        made.append(1)
        return real(*arguments)

    monkeypatch.setattr(writing.mmap, "mmap", counting)
    chunks, told = Chunks(2 * PAGE, 5), list[str]()
    file = new(told, True, chunks)
    for one in reversed(stretches(60)):
        write(file, chunks, *one)
    assert told == [blake3(DATA).hexdigest()]
    assert len(made) <= 5 + 1


def test_a_file_that_is_given_up_leaves_its_memory_to_others(
    new: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(2 * PAGE, 5)
    lost = new([], True, chunks)
    write(lost, chunks, PAGE, 30 * PAGE)  # not from the start of the file, so nothing is hashed
    lost.give_up()
    write(lost, chunks, 30 * PAGE, 40 * PAGE)
    assert (tmp_path / "x").read_bytes()[30 * PAGE : 40 * PAGE] == bytes(10 * PAGE)

    def refuse(*_: Any) -> int:
        raise AssertionError("what is in memory is not to be read")

    monkeypatch.setattr(os, "preadv", refuse)
    told: list[str] = []
    (tmp_path / "x").unlink()
    other = new(told, True, chunks)
    write(other, chunks, 4 * PAGE, 12 * PAGE)
    write(other, chunks, 0, 4 * PAGE)
    write(other, chunks, 12 * PAGE, len(DATA))
    assert told == [blake3(DATA).hexdigest()]


def test_a_file_has_its_length_at_once_and_its_blocks_where_that_can_be(tmp_path: Path) -> None:
    with open(tmp_path / "y", "x+b", buffering=0) as file:
        os.truncate(file.fileno(), 100 * PAGE + 1)
        set_aside(file.fileno(), 100 * PAGE + 1)
        assert file.read() == bytes(100 * PAGE + 1)
    with open("/dev/null", "r+b", buffering=0) as nothing, pytest.raises(OSError, match="Invalid"):
        set_aside(nothing.fileno(), PAGE)  # neither way


def test_a_buffer_is_given_back_once_though_its_file_cannot_be_read_again(
    new: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, and two threads would fill it, each for a file of its own."""
    chunks, given = Chunks(PAGE, 5), list[int]()
    real = chunks.give

    def give(chunk: memoryview) -> None:
        given.append(id(chunk))
        real(chunk)

    monkeypatch.setattr(chunks, "give", give)
    file = new([], False, chunks)
    file.wrote(PAGE, PAGE, None)

    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(OSError, match="Input/output"):
        file.write(memoryview(DATA)[:PAGE], 0)
    file.give_up()
    assert len(given) == len(set(given)) == 1


def test_a_file_system_that_refuses_the_multiples_is_written_through_its_cache(
    new: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks, told = Chunks(2 * PAGE, 5), list[str]()
    file = new(told, True, chunks)
    monkeypatch.setattr(writing, "PAGE", 8)  # less than any disk takes
    write(file, chunks, 0, len(DATA))
    file.sync()
    assert (tmp_path / "x").read_bytes() == DATA
    assert told == [blake3(DATA).hexdigest()]


def test_what_the_disk_refuses_is_raised_where_it_is_written(
    new: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(2 * PAGE, 5)
    file = new([], True, chunks)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        write(file, chunks, 0, 4 * PAGE)


def test_whole_pages_of_another_file_are_shared_where_the_file_system_can(
    new: Open, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    chunks, told = Chunks(2 * PAGE, 5), list[str]()
    file = new(told, True, chunks)
    with open(tmp_path / "source", "rb") as source:
        shared = file.clone(source.fileno(), 0, 0, 100 * PAGE)
    write(file, chunks, 100 * PAGE if shared else 0, len(DATA))
    file.sync()
    assert (tmp_path / "x").read_bytes() == DATA
    assert told == [blake3(DATA).hexdigest()]
    if not shared:
        pytest.skip("the file system of the tests' folder cannot share pages; told so, and copied")
