"""Units of any architecture that the kernels can make: a linear layer that plain LoRA adds a product to."""

from __future__ import annotations

import torch

from pipeline.accounting.layout import Delta, Tensor
from pipeline.accounting.lora import module_delta
from pipeline.accounting.not_direct import NotDirectError
from pipeline.accounting.way import Way
from pipeline.blueprint import Blueprint
from pipeline.realise.stream.structure import Structure
from pipeline.realise.stream.windows import Window


def plain_tensors(unit: Window, blueprint: Blueprint, of: Structure) -> dict[str, Tensor] | None:
    """The unit's tensors by key, each from the base and a product, or None if torch must make them.

    Only what is written in the dtype in which the base holds it: then nothing but the merge rounds.
    """
    if len(unit.modules) != 1 or not unit.parts:
        return None
    (module,) = unit.modules
    weight = f"{module}.weight"
    # Not a class of its own, such as GPT-2's, and not one of bitsandbytes.
    if type(of.blank.get_submodule(module)) is not torch.nn.Linear:
        return None
    tensors = {}
    for key in unit.outs:
        out = of.outs[key]
        if out.copied is None or len(out.names) != 1:
            return None
        tensors[key] = Tensor(key, out.copied)
        if weight in out.names:
            try:
                deltas = _deltas(module, unit, blueprint, out.form.shape)
            except NotDirectError:
                return None
            dtype = out.form.dtype
            how = Way(dtype, dtype, dtype, tuple(fold.accumulate for fold in blueprint.folds))
            tensors[key] = Tensor(key, out.copied, how.changes(dtype, None, None, deltas))
    return tensors


def _deltas(
    module: str, unit: Window, blueprint: Blueprint, shape: tuple[int, ...]
) -> list[list[Delta]]:
    """Of each fold."""
    return [
        [
            module_delta(adapter, module, unit.parts[adapter], shape)
            for adapter in fold.adapters
            if adapter in unit.parts
        ]
        for fold in blueprint.folds
    ]
