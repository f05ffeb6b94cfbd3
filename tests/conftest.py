"""What all tests share: small models, built once per run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before huggingface_hub is imported: no test may reach the network
)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

BuildBase = Callable[..., Path]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> BuildBase:
    """A function like `build_base` without the folder; equal arguments give the same folder. Only read it."""
    from tests.fixtures.models import build_base

    built: dict[str, Path] = {}

    def build(architecture: str = "llama", **options: Any) -> Path:
        key = f"{architecture} {sorted(options.items())}"
        if key not in built:
            built[key] = build_base(tmp_path_factory.mktemp(architecture), architecture, **options)
        return built[key]

    return build
