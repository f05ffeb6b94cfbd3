from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "run")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a data file; returns its path."""

    def writing(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return writing
