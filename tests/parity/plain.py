"""Comparison of model folders, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder, whatever shards they lie in."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def assert_same_bits(ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> None:
    """Same names, dtypes, shapes and bytes."""
    assert ours.keys() == plain.keys()
    for name, tensor in plain.items():
        own = ours[name]
        assert (own.dtype, own.shape) == (tensor.dtype, tensor.shape), name
        assert own.contiguous().view(torch.uint8).equal(tensor.contiguous().view(torch.uint8)), name


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a model folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config
