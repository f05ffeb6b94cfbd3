"""What a job needs of the machine that runs it, for whoever packs jobs onto machines."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.accounting.layout import parse_size
from pipeline.plan import Plan

_LEAST = 300_000_000
"""Bytes that a job takes that reads no weights."""
_MARGIN = 1.25
"""A scheduler may kill what takes more than it asked for, and an estimate is one."""


@dataclass(frozen=True)
class Resources:
    """Of one job."""

    cpus: int
    """Threads that it computes with."""
    gpus: int
    memory: int
    """Bytes."""
    gpu: int | None = None
    """The only one that will do: the recipe names it."""


class Asked(BaseModel):
    """`resources.*` on the command line: the same for each job, in place of what its plan says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    memory: (
        Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*[KMGT]i?B$", examples=["16GB"])] | None
    ) = None


def resources_of(plan: Plan, asked: Asked, *, cpus: int, gpus_there: bool) -> Resources:
    """What a job needs: as asked, or by its plan; `cpus` where nothing is asked.

    A GPU when the recipe's `device` is one, and with `device: auto` when a step holds a model and there are
    GPUs at all.
    """
    device = plan.recipe.device
    named = re.search(r":(\d+)$", device)
    wants = device.startswith("cuda") or (device == "auto" and gpus_there and _holds_models(plan))
    estimate = max(_LEAST, int((plan.peak_memory_bytes or 0) * _MARGIN))
    return Resources(
        cpus=asked.cpus or cpus,
        gpus=int(wants) if asked.gpus is None else asked.gpus,
        memory=parse_size(asked.memory) if asked.memory else estimate,
        gpu=int(named[1]) if named and wants else None,
    )


def _holds_models(plan: Plan) -> bool:
    """Streams need no GPU; models in memory go where there is one."""
    states = zip(plan.recipe.steps, plan.states, strict=True)
    return "live" in plan.engine or any(
        state.blueprint and call.step.models(state.blueprint) for call, state in states
    )


def local_gpus() -> list[int]:
    """Numbers of this machine's NVIDIA GPUs that this process may use, without asking a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [int(number) for number in visible.split(",") if number.strip().isdigit()]
    devices = (re.fullmatch(r"nvidia(\d+)", file.name) for file in Path("/dev").glob("nvidia*"))
    return list(range(sum(device is not None for device in devices)))
