"""Sums in float32: weights that a merge adds to are made wide before it, and rounded once after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.accounting.claims import PREFIX
from pipeline.blueprint import Blueprint
from pipeline.realise.attach import tensor_names


def summed_layers(model: Any, blueprint: Blueprint) -> frozenset[str]:
    """The quantized layers of a model that the first merge adds to in float32.

    What their 4 or 8 bits stand for goes into the sum before it is rounded.
    """
    if not blueprint.folds or blueprint.folds[0].accumulate != "float32":
        return frozenset()
    held = {
        above
        for adapter in blueprint.folds[0].adapters
        for name in tensor_names(adapter)
        for above in _above(name.removeprefix(PREFIX))
    }
    return frozenset(
        name
        for name, module in model.named_modules()
        if name in held and type(getattr(module, "weight", None)).__name__ in _QUANTIZED
    )


def widen(peft_model: Any) -> None:
    """Make the weights under all layers of adapters float32."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in peft_model.modules():
        if isinstance(layer, BaseTunerLayer):
            for parameter in layer.get_base_layer().parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.float()


def narrow(model: Any, dtypes: Mapping[str, torch.dtype]) -> None:
    """Round parameters to the dtypes that they had, by their names."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))


_QUANTIZED = ("Params4bit", "Int8Params")


def _above(name: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c.d`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
