"""What all tests share: small models, built once per run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before huggingface_hub is imported: no test may reach the network
)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

BuildBase = Callable[..., Path]

THIRD_PARTY_WARNINGS = (
    # torch's own modules, at import, on the newest Python.
    "ignore:`torch.jit.*` is deprecated:DeprecationWarning",
    # PEFT asks transformers for an attribute under its old name.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    # PEFT says what it saves beside an adapter's own tensors: as the tests want it.
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    # PEFT takes the bias of `lora_bias` for a sharded matrix.
    "ignore:Adapter .*LoRA tensor.s. have invalid shape",
    # What PEFT says of ties, in the plain calls that ours are compared with.
    "ignore:Input and output embeddings are no longer tied after merging:UserWarning",
    "ignore:Model has `tie_word_embeddings=True` and a tied layer is part of the adapter:UserWarning",
    "ignore:Model with `tie_word_embeddings=True` and the tied_target_modules:UserWarning",
)
"""Warnings are errors in our tests; these are not ours to mend."""


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


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


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests remember nothing in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _as_from_a_terminal() -> Iterator[None]:
    """Signals as a terminal leaves them, also where the tests run under `nohup` or behind an `&`."""
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
