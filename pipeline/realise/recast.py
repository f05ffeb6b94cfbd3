"""Cast a model to the dtype that it is saved in."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.errors import MergeError
from pipeline.realise.load import cast_model


def recast(model: Any, own: torch.dtype, new: torch.dtype) -> None:
    """Cast, in place, the model's tensors of dtype `own` to `new`.

    Raises MergeError, naming the tensor, for a value that is finite now and would be infinite.
    """
    if own != new:
        _check_range(model, own, new)
        cast_model(model, own, new)


def _check_range(model: Any, own: torch.dtype, new: torch.dtype) -> None:
    if torch.finfo(new).max >= torch.finfo(own).max:
        return
    for name, parameter in model.named_parameters():
        if parameter.dtype != own or parameter.numel() == 0:
            continue
        low, high = torch.aminmax(parameter.data)
        extremes = torch.stack((low, high))
        if bool((torch.isinf(extremes.to(new)) & torch.isfinite(extremes)).any()):
            raise MergeError(
                f"values up to {float(extremes.abs().max()):.4g} overflow {str(new).removeprefix('torch.')}",
                where=name,
                fix="save as bfloat16 or float32",
            )
