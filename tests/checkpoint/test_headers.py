"""Headers of safetensors files: sound ones are read, damaged or lying ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.checkpoint.headers import read_header
from pipeline.errors import InputError
from tests.fixtures.folders import with_header, write_safetensors


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_reads_names_dtypes_shapes_and_places_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"a": ("BF16", (2, 3)), "b": ("U8", ()), "empty": ("F32", (0, 4))})

    tensors = read_header(file).tensors

    assert list(tensors) == ["a", "b", "empty"]
    assert (tensors["a"].dtype, tensors["a"].shape, tensors["a"].bytes) == ("BF16", (2, 3), 12)
    assert tensors["b"].start == tensors["a"].end
    assert tensors["empty"].end == file.stat().st_size


def test_agrees_with_the_safetensors_library(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    from safetensors import safe_open
    from safetensors.numpy import save_file

    file = tmp_path / "model.safetensors"
    save_file(
        {"x": numpy.arange(6.0).reshape(2, 3), "y": numpy.ones((1,), "int8")},
        file,
        metadata={"format": "np"},
    )

    header = read_header(file)

    assert header.metadata == {"format": "np"}
    with safe_open(file, "np") as theirs:
        assert set(header.tensors) == set(theirs.keys())
        data = file.read_bytes()
        for name, tensor in header.tensors.items():
            assert data[tensor.start : tensor.end] == theirs.get_tensor(name).tobytes()
            assert list(tensor.shape) == theirs.get_slice(name).get_shape()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "too short"),
        (b"\x01\x02", "too short"),
        ((10**12).to_bytes(8, "little") + b"{}", "says that its header has"),
        (b"PK\x03\x04 and more bytes", "pickle of torch.save"),
        (b"<!DOCTYPE html><html>", "web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            "git-LFS pointer",
        ),
        (with_header("{not json"), "not JSON"),
        (with_header([]), "not a JSON object"),
        (with_header("[" * 9000), "not JSON"),
        (with_header('{"a": 1, "a": 2}'), "names 'a' twice"),
        (with_header({"a": {"dtype": "F32"}}), "a: its header lacks"),
        (with_header({"a": entry([1], 0, 4, "F99")}) + bytes(4), "a: has the dtype 'F99'"),
        (with_header({"a": entry([-1], 0, 4)}) + bytes(4), "a: has the impossible shape"),
        (with_header({"a": entry([True], 0, 4)}) + bytes(4), "a: has the impossible shape"),
        (with_header({"a": entry([1], 4, 0)}), "a: has the impossible shape"),
        (
            with_header({"a": entry([3], 0, 4)}) + bytes(4),
            "a: shape [3] of F32 does not take the 4 bytes",
        ),
        (with_header({"a": entry([1], 0, 4)}), "a: ends at byte"),
        (with_header({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}) + bytes(6), "b: overlaps"),
        (
            with_header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}) + bytes(12),
            "b: leaves a gap",
        ),
        (with_header({"a": entry([1], 0, 4)}) + bytes(9), "5 bytes after its last tensor"),
        (with_header({"__metadata__": 3}), "__metadata__ is not an object"),
    ],
)
def test_names_the_file_and_what_is_wrong_with_it(
    tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)

    with pytest.raises(InputError) as caught:
        read_header(file)

    assert str(file) in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.fix


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"a": ("F32", (1,))})
    assert list(read_header(file).tensors) == ["a"]

    write_safetensors(file, {"other": ("F32", (2,))})

    assert list(read_header(file).tensors) == ["other"]
