"""What a recipe sets besides its steps."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pipeline.blueprint import Engine
from pipeline.recipe.model import Tracker, Workers
from pipeline.steps import step_settings


@step_settings
class Head:
    """What a recipe sets besides its steps."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", examples=["merge_v2"])]
    """What the recipe is called; its runs lie in `outputs/<name>/`. By default the file's name."""
    params: dict[str, Any]
    """Your own values, for `${params.<name>}` in the steps."""
    engine: Engine
    """How models are built: tensor by tensor from file to file (`stream`), in memory (`live`), or by
    whichever suits (`auto`)."""
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|mps|(cuda|xpu|npu)(:\d+)?)$",
            examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        ),
    ]
    """Where models in memory go."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Decides everything that is drawn at random."""
    tags: list[str]
    """Your own words, kept in the manifest."""
    tracking: Tracker | None
    """Where metrics are sent as well; on the command line only."""
    workers: Workers | None
    """Who writes the weights of streams: the machines of a Ray cluster, file by file; on the command line
    only. By default this machine does."""
