"""Recipes written on the spot, and what loading them says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Problem, RecipeError
from pipeline.recipe import load
from pipeline.recipe.model import Recipe

Load = Callable[..., Recipe]
Problems = Callable[..., list[Problem]]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a recipe from its text: `load_text(text, *overrides)`; the file is `r.yaml` here."""
    monkeypatch.chdir(tmp_path)

    def load_it(text: str, *overrides: str, config_dir: Path | None = None) -> Recipe:
        Path("r.yaml").write_text(text, encoding="utf-8")
        return load("r.yaml", overrides, config_dir=config_dir)

    return load_it


@pytest.fixture
def problems_of(load_text: Load) -> Problems:
    """The problems that loading a text raises, none when it loads."""

    def problems(text: str, *overrides: str, config_dir: Path | None = None) -> list[Problem]:
        try:
            load_text(text, *overrides, config_dir=config_dir)
        except RecipeError as error:
            return list(error.problems)
        return []

    return problems
