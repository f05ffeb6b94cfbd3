"""From a YAML list to a typed recipe: find, read, compile to Hydra's form, compose, check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.recipe.model import Recipe


def load(
    reference: str, overrides: Sequence[str] = (), *, config_dir: Path | None = None
) -> Recipe:
    """The recipe that a name or path means, with overrides as on the command line.

    Raises RecipeError with every mistake of the file, its presets and the overrides.
    """
    from pipeline.recipe import (
        loading,
    )  # Hydra costs a quarter of a second, which naming steps need not pay

    return loading.load(reference, overrides, config_dir=config_dir)
