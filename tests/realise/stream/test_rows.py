"""Changes of a tensor, one after the other, however it is cut into blocks."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.accounting.layout import (
    Cast,
    Change,
    Delta,
    Form,
    Stored,
    Summed,
    Tensor,
    Unpack4,
    Unpack8,
    lay_out,
)
from pipeline.checkpoint.headers import read_header
from pipeline.errors import MergeError
from pipeline.realise.stream import engine
from tests.realise.stream.test_engine import changed as keys_of
from tests.realise.stream.test_engine import write


def save(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Stored]:
    save_file(tensors, file)
    return {name: Stored(file, info) for name, info in read_header(file).tensors.items()}


def changed(stored: Stored, folder: Path, *changes: Change) -> torch.Tensor:
    """What the changes make of a tensor."""
    write(lay_out([Tensor("w", stored, changes)], 10**9), folder)
    return load_file(folder / "model.safetensors")["w"]


@pytest.fixture(params=["whole", "in pieces"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in pieces":
        monkeypatch.setattr(engine, "BLOCK", 1024)
        monkeypatch.setattr(engine, "range_size", lambda outputs, threads: 3000)


@pytest.mark.parametrize("shape", [(300, 40), (70_001,), (1, 5), (0, 4)])
def test_casts_of_any_shape(shape: tuple[int, ...], cut: None, tmp_path: Path) -> None:
    weight = torch.randn(shape)
    stored = save(tmp_path / "base.safetensors", {"w": weight})
    made = changed(stored["w"], tmp_path / "out", Cast("BF16"), Cast("F32"), Cast("F16"))
    assert made.equal(weight.bfloat16().float().half())


def test_a_cast_that_overflows_names_the_tensor_and_the_value(cut: None, tmp_path: Path) -> None:
    weight = torch.ones(300, 40)
    weight[299, 3] = -70_000
    stored = save(tmp_path / "base.safetensors", {"w": weight})
    with pytest.raises(MergeError, match=r"values up to 7e\+04 overflow float16") as caught:
        changed(stored["w"], tmp_path / "out", Cast("F16"))
    assert caught.value.where == "w"


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_packed_weight_with_a_delta(kind: str, cut: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, 128).bfloat16()
    packed, state = bnb.quantize_4bit(weight, quant_type=kind)
    a, b = torch.randn(3, 128), torch.randn(300, 3)
    tensors = {"w": packed, "scales": state.absmax, "a": a, "b": b}
    stored = save(tmp_path / "base.safetensors", tensors)
    unpack = Unpack4(kind, Form("BF16", (300, 128)), stored["scales"], None)
    delta = Delta(stored["a"], stored["b"], 0.5)
    made = changed(stored["w"], tmp_path / "out", unpack, delta)
    plain = bnb.dequantize_4bit(packed, state)
    assert made.equal(plain.add_((b @ a) * 0.5))


def test_rows_of_8_bits_have_their_own_scales(cut: None, tmp_path: Path) -> None:
    codes = torch.randint(-127, 128, (300, 50)).to(torch.int8)
    scales = torch.rand(300)
    stored = save(tmp_path / "base.safetensors", {"w": codes, "scales": scales})
    made = changed(stored["w"], tmp_path / "out", Unpack8(stored["scales"]))
    torch.testing.assert_close(made, codes.float() * scales[:, None] / 127)


def test_a_sum_that_rounds_to_what_was_there_changes_nothing(cut: None, tmp_path: Path) -> None:
    tensors = {
        "w": torch.ones(300, 64).bfloat16(),
        "a": torch.full((1, 64), 1e-4),
        "b": torch.ones(300, 1),
    }
    stored = save(tmp_path / "base.safetensors", tensors)
    small = Delta(stored["a"], stored["b"], 1.0)

    def changed_keys(times: int) -> set[str]:
        tensor = Tensor("w", stored["w"], (Cast("F32"), Summed((small,) * times, "BF16")))
        return keys_of(write(lay_out([tensor], 10**9), tmp_path / f"out{times}"))

    assert changed_keys(1) == set()
    assert changed_keys(40) == {"w"}  # together they are as large as one step of bfloat16
    assert load_file(tmp_path / "out40" / "model.safetensors")["w"].eq(1.0078125).all()
