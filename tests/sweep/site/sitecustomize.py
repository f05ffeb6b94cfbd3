"""Python imports this at its start in every process of a test that has this folder on its path."""

from __future__ import annotations

from pathlib import Path

import pipeline.steps

pipeline.steps.__path__.append(str(Path(__file__).parent / "steps"))
