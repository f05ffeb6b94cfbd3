"""The options of a step with their defaults."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticUndefined

from pipeline.steps import Step, options_of

REQUIRED = "???"
"""What Hydra and OmegaConf write for a value that must still be given."""


def defaults_of(step: Step[Any]) -> dict[str, Any]:
    """Every option of a step with its default; `???` stands for one that must be given."""
    values: dict[str, Any] = {}
    for name, info in options_of(step.settings).items():
        value = info.get_default(call_default_factory=True)
        values[name] = REQUIRED if value is PydanticUndefined else value
    return values
