"""The engine: every byte from its place, whatever the number of threads, and clear errors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.accounting.layout import (
    Delta,
    Form,
    Shard,
    Stored,
    Tensor,
    index_of,
    lay_out,
    parse_size,
)
from pipeline.blueprint import Quantization
from pipeline.checkpoint.hashes import hash_file
from pipeline.checkpoint.headers import read_header
from pipeline.checkpoint.journal import Finished
from pipeline.errors import InputError, MergeError
from pipeline.realise.stream import engine, writing
from pipeline.realise.stream.engine import write_shards
from pipeline.realise.stream.stored import read_floats
from pipeline.realise.stream.writing import PAGE, OutputFile, write_all

RANDOM = np.random.default_rng(0)


def save(file: Path, tensors: dict[str, Any]) -> dict[str, Stored]:
    from safetensors.numpy import save_file

    save_file(tensors, str(file), {"format": "pt"})
    return {name: Stored(file, info) for name, info in read_header(file).tensors.items()}


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Stored]:
    shapes = {"a": (300, 40), "b": (7,), "c": (9, 33), "d": (64, 64), "e": (0, 4)}
    return save(
        tmp_path / "base.safetensors",
        {name: RANDOM.standard_normal(shape, np.float32) for name, shape in shapes.items()},
    )


@pytest.fixture
def delta(tmp_path: Path) -> Delta:
    """For `c` of the base."""
    factors = save(
        tmp_path / "adapter.safetensors",
        {
            "A": RANDOM.standard_normal((3, 33), np.float32),
            "B": RANDOM.standard_normal((9, 3), np.float32),
        },
    )
    return Delta(factors["A"], factors["B"], 0.5)


def write(shards: list[Shard], folder: Path, **options: Any) -> list[Finished]:
    """Returns what the engine told of each finished file, in that order."""
    folder.mkdir(exist_ok=True)
    told: list[Finished] = []
    defaults = {"safe": True, "advance": lambda count: None, "finished": told.append}
    write_shards(shards, folder, **{**defaults, **options})
    return told


def changed(finished: list[Finished]) -> set[str]:
    return {key for entry in finished for key in entry.changed}


def values(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    found: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        found.update(load_file(file))
    return found


@pytest.mark.parametrize("most", [1, 100, 40_000, 10**9])
@pytest.mark.parametrize("at_once", [600, 3 * PAGE])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_copied_and_folded_tensors_are_each_in_their_place(
    base: dict[str, Stored], delta: Delta, tmp_path: Path, most: int, at_once: int, threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "BLOCK", 512)
    monkeypatch.setattr(engine, "chunk_size", lambda outputs: PAGE)
    monkeypatch.setattr(writing, "SMALL", PAGE)
    monkeypatch.setattr(engine, "range_size", lambda outputs, threads: at_once)
    tensors = [Tensor(n, where, (delta,) if n == "c" else ()) for n, where in base.items()]
    told: list[float] = []
    done = write(lay_out(tensors, most), tmp_path / "out", threads=threads, advance=told.append)

    ours, plain = values(tmp_path / "out"), values_of(base)
    plain["c"] = plain["c"] + read_floats(delta.b) @ read_floats(delta.a) * 0.5
    assert ours.keys() == plain.keys()
    for name in plain:
        np.testing.assert_allclose(ours[name], plain[name], rtol=1e-6 if name == "c" else 0)
    assert changed(done) == {"c"}
    assert {entry.name: (entry.bytes, entry.blake3) for entry in done} == {
        file.name: (file.stat().st_size, hash_file(file)) for file in (tmp_path / "out").iterdir()
    }
    assert sum(told) == sum(tensor.bytes for tensor in tensors)


def values_of(base: dict[str, Stored]) -> dict[str, Any]:
    return {
        name: read_floats(stored) if stored.info.bytes else np.zeros((0, 4), np.float32)
        for name, stored in base.items()
    }


def test_where_the_file_system_shares_pages_only_the_others_are_written(
    base: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stood in for by a copy of just these pages: the disk of the tests seldom can."""
    shared: list[int] = []
    written: list[int] = []

    def share(file: OutputFile, source: int, start: int, at: int, length: int) -> bool:
        assert start % PAGE == at % PAGE == length % PAGE == 0
        shared.append(os.copy_file_range(source, file.descriptor, length, start, at))
        file.wrote(at, length, None)
        return True

    def count(descriptor: int, data: memoryview, at: int) -> None:
        written.append(len(data))
        write_all(descriptor, data, at)

    monkeypatch.setattr(OutputFile, "clone", share)
    monkeypatch.setattr(writing, "write_all", count)
    done = write(lay_out([Tensor(n, where) for n, where in base.items()], 10**9), tmp_path / "out")
    for name, value in values(tmp_path / "out").items():
        assert np.array_equal(value, values_of(base)[name])
    (file,) = (tmp_path / "out").iterdir()
    assert sum(shared) > 10 * PAGE
    assert sum(shared) + sum(written) == file.stat().st_size
    assert done[0].blake3 == hash_file(file)


def test_tensors_that_come_from_no_file_are_asked_for_once_and_only_for_the_files_to_write(
    base: dict[str, Stored], tmp_path: Path
) -> None:
    value = RANDOM.standard_normal((6, 5), np.float32)
    tensors = [
        Tensor("a", base["a"]),
        *(Tensor(f"made{n}", None, becomes=Form("F32", (6, 5))) for n in range(3)),
    ]
    shards = lay_out(tensors, 130)
    asked: list[list[str]] = []

    def make(wanted: Sequence[Tensor]) -> Iterator[tuple[str, memoryview, bool]]:
        asked.append([tensor.key for tensor in wanted])
        for tensor in reversed(wanted):
            yield tensor.key, memoryview(value.tobytes()), tensor.key == "made1"

    done = write(
        [shard for shard in shards if "made2" not in dict_of(shard)], tmp_path / "out", make=make
    )
    assert asked == [["made0", "made1"]]
    assert changed(done) == {"made1"}
    assert {e.name: e.blake3 for e in done} == {
        f.name: hash_file(f) for f in (tmp_path / "out").iterdir()
    }
    found = values(tmp_path / "out")
    assert found.keys() == {"a", "made0", "made1"}
    assert np.array_equal(found["made0"], value)
    write(shards[:1], tmp_path / "copied", make=make)
    assert len(asked) == 1, "nothing to make, nobody asked"


def dict_of(shard: Shard) -> dict[str, Tensor]:
    return {tensor.key: tensor for tensor, _ in shard.tensors}


def test_files_are_finished_in_their_order_though_two_are_written_at_a_time(
    base: dict[str, Stored], tmp_path: Path
) -> None:
    tensors = [Tensor(f"{n:03}{key}", where) for n in range(40) for key, where in base.items()]
    shards = lay_out(tensors, 60_000)
    done = write(shards, tmp_path / "out", threads=1)
    places = [[shard.name for shard in shards].index(entry.name) for entry in done]
    assert len(places) == len(shards) > 20
    assert all(abs(place - turn) <= 2 for turn, place in enumerate(places))


@pytest.mark.parametrize(
    ("base_value", "a_value", "says", "file"),
    [
        (1.0, np.inf, "the adapter's delta holds NaN or infinite values", "adapter.safetensors"),
        (1.0, np.nan, "the adapter's delta holds NaN or infinite values", "adapter.safetensors"),
        (np.nan, 1.0, "the base's weight holds NaN or infinite values", "base.safetensors"),
        (1.0, 3e38, "it overflows float32", None),
    ],
)
def test_a_merged_weight_that_is_not_finite_names_the_tensor_and_the_file_at_fault(
    base_value: float, a_value: float, says: str, file: str | None, tmp_path: Path
) -> None:
    weight, a, b = (np.ones(shape, np.float32) for shape in ((9, 33), (1, 33), (9, 1)))
    weight[7, 5], a[0, 5] = base_value, a_value
    base = save(tmp_path / "base.safetensors", {"c": weight})
    factors = save(tmp_path / "adapter.safetensors", {"A": a, "B": b})
    tensor = Tensor("c", base["c"], (Delta(factors["A"], factors["B"], 2.0),))
    with pytest.raises(MergeError, match=says) as caught:
        write(lay_out([tensor], 10**9), tmp_path / "out")
    assert caught.value.where == (f"{tmp_path / file}: c" if file else "c")
    if file == "adapter.safetensors":  # nobody wants that
        with pytest.raises(MergeError, match=says):
            write(lay_out([tensor], 10**9), tmp_path / "unsafe", safe=False)
    else:
        write(lay_out([tensor], 10**9), tmp_path / "unsafe", safe=False)
        assert not np.isfinite(values(tmp_path / "unsafe")["c"]).all()


@pytest.mark.parametrize("double_quant", [False, True])
def test_blocks_of_a_weight_in_4_bits_are_those_of_the_whole(
    double_quant: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is cut: each number is given back by the level of its own block of 64."""
    weight = RANDOM.standard_normal((300, 64), np.float32) * np.logspace(-9, 3, 300)[:, None]
    stored = save(tmp_path / "base.safetensors", {"w": weight.astype(np.float32)})
    tensor = Tensor("w", stored["w"], changes=(Quantization("nf4", double_quant),))
    write(lay_out([tensor], 10**9), tmp_path / "whole", threads=1)
    monkeypatch.setattr(engine, "BLOCK", 1024)
    monkeypatch.setattr(engine, "range_size", lambda outputs, threads: 3000)
    done = write(lay_out([tensor], 10**9), tmp_path / "cut", threads=5)

    whole, cut = values(tmp_path / "whole")["w"], values(tmp_path / "cut")["w"]
    assert np.array_equal(whole, cut)
    largest = np.abs(weight).max(axis=1, keepdims=True)
    assert len(np.unique(cut)) > 300
    if not double_quant:
        assert (np.abs(cut - weight) < 0.16 * largest).all()
    assert changed(done) == set()


@pytest.mark.parametrize("double_quant", [False, True])
def test_a_base_that_cannot_be_quantized_names_the_tensor(
    double_quant: bool, tmp_path: Path
) -> None:
    weight = np.ones((4, 64), np.float32)
    weight[3, 5] = np.nan
    stored = save(tmp_path / "base.safetensors", {"w": weight})
    tensor = Tensor("w", stored["w"], changes=(Quantization("nf4", double_quant),))
    with pytest.raises(MergeError, match="cannot be quantized") as caught:
        write(lay_out([tensor], 10**9), tmp_path / "out", safe=False)
    assert caught.value.where == f"{tmp_path / 'base.safetensors'}: w"


def test_a_base_that_shrinks_while_it_is_read_is_an_input_error(
    base: dict[str, Stored], delta: Delta, tmp_path: Path
) -> None:
    os.truncate(tmp_path / "base.safetensors", 1000)
    for number, deltas in enumerate([(), (delta,)]):
        with pytest.raises(InputError, match="became shorter"):
            write(lay_out([Tensor("c", base["c"], deltas)], 10**9), tmp_path / f"out{number}")


def test_shards_hold_at_most_what_they_may_and_the_index_names_every_tensor(
    base: dict[str, Stored],
) -> None:
    shards = lay_out([Tensor(n, where) for n, where in base.items()], 17_000)
    assert len(shards) > 1
    for shard in shards:
        weights = sum(tensor.bytes for tensor, _ in shard.tensors)
        assert weights <= 17_000 or len([t for t, _ in shard.tensors if t.bytes]) == 1
    index = json.loads(index_of(shards))
    assert index["weight_map"].keys() == base.keys()
    assert index["metadata"]["total_size"] == sum(stored.info.bytes for stored in base.values())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5_000_000_000),
        ("500 MB", 500_000_000),
        ("1.5KiB", 1536),
        ("7B", 7),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_read_as_they_are_written(text: str, size: int) -> None:
    assert parse_size(text) == size
