from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.verified import Made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """A copy of the merged folder, to be broken."""
    return shutil.copytree(made.merged, tmp_path / "merged")
