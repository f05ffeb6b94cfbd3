"""Several outputs in one pass: each as it would be alone, from one reading of the base."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.accounting.layout import Cast, Change, Delta, Stored, Summed, Tensor, lay_out
from pipeline.blueprint import Quantization
from pipeline.checkpoint.hashes import hash_file
from pipeline.checkpoint.journal import Finished
from pipeline.errors import InputError, MergeError
from pipeline.realise.stream import engine, ranges, writing
from pipeline.realise.stream.engine import write_outputs
from pipeline.realise.stream.output import Output
from tests.realise.stream.test_engine import write
from tests.realise.stream.test_rows import save

ROOT = Path(__file__).parents[3]
SHAPES = {"norm": (128,), "w": (300, 128), "v": (64, 128), "end": (40, 128)}


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Stored]:
    torch.manual_seed(0)
    weights = {name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()}
    return save(tmp_path / "base.safetensors", weights)


def delta(file: Path, rows: int, rank: int = 3, scale: float = 1.0) -> Delta:
    factors = save(file, {"a": torch.randn(rank, 128) * scale, "b": torch.randn(rows, rank)})
    return Delta(factors["a"], factors["b"], 0.5)


def model(base: dict[str, Stored], changes: dict[str, Sequence[Change]]) -> list[Tensor]:
    return [Tensor(key, where, tuple(changes.get(key, ()))) for key, where in base.items()]


def output(tensors: Sequence[Tensor], folder: Path, most: int = 10**9, **options: Any) -> Output:
    folder.mkdir()
    told: list[Finished] = []
    shards = lay_out(tensors, most)
    return Output(folder, shards, **{"safe": True, "finished": told.append, **options})


def bits(folder: Path) -> dict[str, str]:
    return {file.name: hash_file(file) for file in sorted(folder.iterdir())}


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BLOCK", 1024)
    monkeypatch.setattr(engine, "chunk_size", lambda outputs: writing.PAGE)
    monkeypatch.setattr(writing, "SMALL", writing.PAGE)
    monkeypatch.setattr(engine, "range_size", lambda outputs, threads: 10_000)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room", [0, 1 << 30], ids=["apart", "together"])
def test_each_output_has_the_bits_that_it_has_alone(
    base: dict[str, Stored], tmp_path: Path, pieces: None, threads: int, room: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(ranges, "FACTORS_AT_ONCE", room)
    one, two, three = (delta(tmp_path / f"{n}.safetensors", 300) for n in range(3))
    other = delta(tmp_path / "other.safetensors", 64)
    through, double = Quantization("nf4"), Quantization("nf4", double_quant=True)
    models = [
        model(base, {"w": [one]}),
        model(base, {"w": [two], "v": [other]}),
        model(base, {"w": [one, three]}),
        model(base, {key: [Cast("F32")] for key in base}),
        model(base, {"w": [through, one], "v": [through]}),
        model(base, {"w": [through, two], "v": [through, other]}),
        model(base, {"w": [double, one]}),
        model(base, {"w": [Cast("F32"), Summed((one, two), "BF16")]}),
        model(base, {}),
    ]
    sizes = [10**9, 20_000, 30_000, 50_000, 10**9, 10**9, 10**9, 20_000, 5_000]
    outputs = [
        output(tensors, tmp_path / f"out{n}", most)
        for n, (tensors, most) in enumerate(zip(models, sizes, strict=True))
    ]
    told: list[float] = []
    write_outputs(outputs, advance=told.append, threads=threads)
    for n, (tensors, most) in enumerate(zip(models, sizes, strict=True)):
        assert outputs[n].error is None
        done = write(lay_out(tensors, most), tmp_path / f"alone{n}")
        assert bits(tmp_path / f"out{n}") == bits(tmp_path / f"alone{n}")
        changed = {key for entry in done for key in entry.changed}
        assert outputs[n].changed == changed
    assert sum(told) == sum(tensor.bytes for tensors in models for tensor in tensors)


def test_a_block_that_many_change_is_read_once(
    base: dict[str, Stored], tmp_path: Path, pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = os.preadv

    def counting(descriptor: int, buffers: Sequence[Any], at: int) -> int:
        count = real(descriptor, buffers, at)
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(base["w"].file):
            read.append(count)
        return count

    deltas = [delta(tmp_path / f"{n}.safetensors", 300) for n in range(16)]
    outputs = [
        output(model({"w": base["w"]}, {"w": [one]}), tmp_path / f"out{n}")
        for n, one in enumerate(deltas)
    ]
    monkeypatch.setattr(os, "preadv", counting)
    write_outputs(outputs, advance=lambda count: None)
    assert sum(read) == base["w"].info.bytes


def test_what_goes_wrong_with_one_is_its_own(
    base: dict[str, Stored], tmp_path: Path, pieces: None
) -> None:
    good = [delta(tmp_path / f"{n}.safetensors", 300) for n in range(2)]
    endless = delta(tmp_path / "nan.safetensors", 300, scale=float("nan"))
    gone = delta(tmp_path / "gone.safetensors", 300)
    gone.a.file.unlink()
    made = [good[0], endless, gone, good[1]]
    outputs = [
        output(model(base, {"w": [one]}), tmp_path / f"out{n}") for n, one in enumerate(made)
    ]
    write_outputs(outputs, advance=lambda count: None)
    assert [type(one.error) for one in outputs] == [
        type(None),
        MergeError,
        FileNotFoundError,
        type(None),
    ]
    assert str(tmp_path / "nan.safetensors") in str(outputs[1].error.where)  # type: ignore[union-attr]
    for n in (0, 3):
        write(outputs[n].shards, tmp_path / f"alone{n}")
        assert bits(tmp_path / f"out{n}") == bits(tmp_path / f"alone{n}")


def test_what_goes_wrong_when_a_file_is_complete_is_its_outputs_own(
    base: dict[str, Stored], tmp_path: Path, pieces: None
) -> None:
    def refuse(file: Finished) -> None:
        raise OSError(28, "No space left on device")

    told: list[Finished] = []
    full = output(model(base, {}), tmp_path / "full", 5_000, finished=refuse)
    good = output(model(base, {}), tmp_path / "good", 5_000, finished=told.append)
    write_outputs([full, good], advance=lambda count: None)
    assert "No space" in str(full.error)
    assert good.error is None
    assert len(told) == len(good.shards) > 1


def test_where_few_files_may_be_open_each_is_open_once(tmp_path: Path) -> None:
    """Through the cache only."""
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from tests.realise.stream.test_engine import Tensor, lay_out, save, write

        resource.setrlimit(resource.RLIMIT_NOFILE, (190, 190))
        folder = Path(sys.argv[1])
        stored = save(folder / "base", {"w": np.ones(128, np.float32)})["w"]
        tensors = [Tensor(f"{number:03}", stored) for number in range(100)]
        assert len(write(lay_out(tensors, 1), folder / "out")) == 100
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)


def test_a_base_that_ends_too_early_is_wrong_for_all(
    base: dict[str, Stored], tmp_path: Path
) -> None:
    deltas = [delta(tmp_path / f"{n}.safetensors", 40) for n in range(2)]
    outputs = [
        output(model(base, {"end": [one]}), tmp_path / f"out{n}") for n, one in enumerate(deltas)
    ]
    os.truncate(base["end"].file, base["end"].file.stat().st_size - 100)
    write_outputs(outputs, advance=lambda count: None)
    assert {type(one.error) for one in outputs} == {InputError}


def test_the_form_of_each_output_is_its_own(base: dict[str, Stored], tmp_path: Path) -> None:
    one = delta(tmp_path / "one.safetensors", 300)
    half = {key: [Cast("F16")] for key in base}
    wide = {key: [Cast("F32")] for key in base} | {"w": [one, Cast("F32")]}
    outputs = [
        output(model(base, half), tmp_path / "half"),
        output(model(base, wide), tmp_path / "wide"),
    ]
    write_outputs(outputs, advance=lambda count: None)
    found = [load_file(tmp_path / name / "model.safetensors") for name in ("half", "wide")]
    assert {tensor.dtype for tensor in found[0].values()} == {torch.float16}
    assert {tensor.dtype for tensor in found[1].values()} == {torch.float32}
    assert found[0]["w"].equal(load_file(base["w"].file)["w"].half())
