"""Comparison of model folders, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file


def plain_adapters(model: Any, adapters: Sequence[Path], weights: Sequence[float] = ()) -> Any:
    """Several adapters on a model, all active, each with its weight, by PEFT's own calls."""
    names = [f"a{number}" for number in range(len(adapters))]
    model = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(adapter, name)
    model.base_model.set_adapter(names)
    for name, weight in zip(names, weights, strict=False):
        for layer in model.modules():
            if hasattr(layer, "set_scale"):
                layer.set_scale(name, weight)
    return model


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
