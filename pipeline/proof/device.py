"""Where a live model takes its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def input_device(model: Any) -> torch.device:
    """The device of the first weights that lie on one; parts that accelerate offloaded lie on none."""
    import torch

    devices = (parameter.device for parameter in model.parameters())
    return next((d for d in devices if d.type != "meta"), torch.device("cpu"))
