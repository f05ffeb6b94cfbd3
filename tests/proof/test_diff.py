"""What differs between two checkpoints: by bits, by values, by rank."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import InputError
from pipeline.proof import tensors
from pipeline.proof.diff import Change, Difference, compare_tensors
from pipeline.proof.tensors import find_tensors
from tests.fixtures.folders import make_adapter, write_files

Tensors = Mapping[str, torch.Tensor]


def checkpoint(folder: Path, *shards: Tensors) -> str:
    """A folder with these tensors in one file, or in several under an index."""
    folder.mkdir()
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"model.safetensors.index.json": json.dumps({"weight_map": where})}
        write_files(folder, index)
    for name, shard in zip(names, shards, strict=True):
        save_file({key: value.contiguous() for key, value in shard.items()}, folder / name)
    return str(folder)


def diff(a: str, b: str) -> dict[str, Difference]:
    return {found.key: found for found in compare_tensors(find_tensors(a), find_tensors(b))}


def changed(tmp_path: Path, a: torch.Tensor, b: torch.Tensor) -> Change:
    """How one tensor changed."""
    found = diff(checkpoint(tmp_path / "a", {"w": a}), checkpoint(tmp_path / "b", {"w": b}))["w"]
    assert found.change is not None
    return found.change


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_the_same_tensors_are_equal_however_they_are_sharded(tmp_path: Path) -> None:
    one, two = {"x": random(8, 4)}, {"y": random(3), "z": torch.arange(5)}

    found = diff(checkpoint(tmp_path / "a", {**one, **two}), checkpoint(tmp_path / "b", two, one))

    assert [(key, difference.status) for key, difference in found.items()] == [
        ("x", "equal"),
        ("y", "equal"),
        ("z", "equal"),
    ]


def test_every_kind_of_difference_is_told(tmp_path: Path) -> None:
    a = {"left": random(2), "shape": random(2, 3), "dtype": random(4, 4), "int": torch.arange(4)}
    b = {
        "shape": random(3, 2),
        "dtype": random(4, 4).to(torch.bfloat16),
        "int": torch.arange(4) + 1,
        "right": random(2),
    }

    found = diff(checkpoint(tmp_path / "a", a), checkpoint(tmp_path / "b", b))

    assert {key: difference.status for key, difference in found.items()} == {
        "left": "only in A",
        "shape": "shape",
        "dtype": "dtype",
        "int": "changed",
        "right": "only in B",
    }
    assert found["shape"].change is None
    assert found["int"].change is None, "a difference of numbers that are no floats has no norm"
    recast = found["dtype"].change
    assert recast is not None
    assert 0 < recast.relative < 2**-8, "rounding to bfloat16 loses no more"
    assert recast.rank == 0, "and rounding alone counts for no direction"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_figures_are_those_of_the_formulas(tmp_path: Path, dtype: torch.dtype) -> None:
    a, b = random(64, 200, dtype=dtype), random(64, 200, dtype=dtype)
    b[10:20] = random(10, 200, seed=1, dtype=dtype)

    found = changed(tmp_path, a, b)

    difference = b.double() - a.double()
    assert found.norm == pytest.approx(float(difference.norm()), rel=1e-5)
    assert found.relative == pytest.approx(float(difference.norm() / a.double().norm()), rel=1e-5)
    assert found.largest == pytest.approx(float(difference.abs().max()), rel=1e-6)
    assert found.share == int((difference != 0).sum()) / difference.numel()
    assert (found.rank, found.rank_more) == (10, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(256, 768), (768, 256), (512, 100)])
@pytest.mark.parametrize("rank", [1, 16, 64])
def test_the_rank_of_a_merged_lora_is_its_own_in_spite_of_rounding(
    tmp_path: Path, dtype: torch.dtype, rows: int, columns: int, rank: int
) -> None:
    base = (random(rows, columns) * 0.02).to(dtype)
    delta = random(rows, rank, seed=1) @ random(rank, columns, seed=2) * 0.002

    found = changed(tmp_path, base, (base.float() + delta).to(dtype))

    assert (found.rank, found.rank_more) == (rank, False)


def test_a_difference_of_more_directions_than_are_counted_says_so(tmp_path: Path) -> None:
    found = changed(tmp_path, random(300, 400), random(300, 400, seed=1))

    assert (found.rank, found.rank_more) == (128, True)


def test_experts_and_kernels_have_a_rank_and_vectors_have_none(tmp_path: Path) -> None:
    zeros, experts, kernel = torch.zeros(4, 32, 48), torch.zeros(4, 32, 48), random(8, 4, 3, 3)
    experts[2] = torch.outer(random(32), random(48))
    a = {"experts": zeros, "kernel": kernel, "vector": torch.zeros(8)}
    b = {"experts": experts, "kernel": kernel * 2, "vector": torch.ones(8)}

    found = diff(checkpoint(tmp_path / "a", a), checkpoint(tmp_path / "b", b))

    ranks = {key: difference.change and difference.change.rank for key, difference in found.items()}
    assert ranks == {"experts": 1, "kernel": 8, "vector": None}
    assert found["experts"].change is not None
    assert found["experts"].change.relative == math.inf, "there was nothing before"


def test_blocks_of_any_size_give_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = random(96, 200)
    other = base + random(96, 8, seed=1) @ random(8, 200, seed=2)
    whole = changed(tmp_path, base, other)

    monkeypatch.setattr(tensors, "_BLOCK", 7 * 200 * 4)
    parts = next(iter(diff(str(tmp_path / "a"), str(tmp_path / "b")).values())).change

    assert parts is not None
    assert (parts.rank, parts.largest, parts.share) == (whole.rank, whole.largest, whole.share)
    assert parts.norm == pytest.approx(whole.norm, rel=1e-6)


def test_zeros_of_another_sign_are_other_bits_and_no_distance(tmp_path: Path) -> None:
    found = changed(tmp_path, torch.zeros(4, 4), -torch.zeros(4, 4))

    assert (found.norm, found.relative, found.share) == (0.0, 0.0, 0.0)


def test_values_that_are_not_finite_make_figures_that_json_can_say(tmp_path: Path) -> None:
    broken = random(4, 4)
    broken[1, 1] = math.nan
    broken[2, 2] = math.inf

    a = checkpoint(tmp_path / "a", {"w": random(4, 4)})
    found = diff(a, checkpoint(tmp_path / "b", {"w": broken}))["w"].to_dict()

    assert found["norm"] == "nan"
    assert found["rank"] is None
    json.dumps(found, allow_nan=False)


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    a, b = torch.zeros(100_000, 256), torch.zeros(100_000, 256)
    b[::2] = 1.0
    one, other = checkpoint(tmp_path / "a", {"w": a}), checkpoint(tmp_path / "b", {"w": b})
    del a, b

    tracemalloc.start()
    try:
        found = diff(one, other)["w"].change
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found is not None
    assert found.rank == 1
    assert peak < 50_000_000, "each of the two tensors has 102 MB"


def test_adapters_are_compared_too(tmp_path: Path) -> None:
    one, other = make_adapter(tmp_path / "a"), make_adapter(tmp_path / "b", r=8)

    assert {found.status for found in diff(str(one), str(other)).values()} == {"equal"}


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", {"x": random(2), "y": random(2)}, {"x": random(2)})

    with pytest.raises(InputError, match="lies in model-00001") as caught:
        find_tensors(folder)

    assert caught.value.where == f"{folder}: x"


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "a", {"pytorch_model.bin": "x"})

    with pytest.raises(InputError, match="only pickled weights"):
        find_tensors(str(folder))
