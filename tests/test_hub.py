"""A recipe with ids of the Hub, through the real command, against a stub of the Hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from pipeline.manifest import read_manifest
from tests.fixtures.hub import Hub, serve
from tests.fixtures.models import build_adapter
from tests.parity.plain import assert_same_bits, tensors_of

RECIPE = """\
steps:
  - load_base: {model: someone/base}
  - attach_adapter: {path: someone/adapter}
  - merge
  - save: {path: "${run.dir}/merged"}
"""


@pytest.fixture
def hub(base_model: Any, tmp_path: Path) -> Iterator[Hub]:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "adapter", base, LoraConfig(target_modules=["q_proj"]))
    with serve({"someone/base": base, "someone/adapter": adapter}) as running:
        yield running


def mergeline(hub: Hub, folder: Path, *arguments: str) -> str:
    (folder / "recipe.yaml").write_text(RECIPE)
    keep = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    home = {"HF_HOME": str(folder / "cache"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    root = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", arguments[0], "recipe.yaml", *arguments[1:]],
        env={**keep, **home, **root},
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("engine", ["stream", "live"])
def test_a_merge_of_two_repositories_equals_that_of_their_folders(
    hub: Hub, tmp_path: Path, engine: str
) -> None:
    mergeline(hub, tmp_path, "run", f"engine={engine}", "hydra.run.dir=run")

    plain = AutoModelForCausalLM.from_pretrained(hub.repos["someone/base"], dtype="auto")
    plain = PeftModel.from_pretrained(plain, hub.repos["someone/adapter"]).merge_and_unload()
    plain.save_pretrained(tmp_path / "plain")
    assert_same_bits(tensors_of(tmp_path / "run" / "merged"), tensors_of(tmp_path / "plain"))
    manifest = read_manifest(tmp_path / "run")
    assert manifest.engine == engine
    inputs = {(record.repo, record.commit) for record in manifest.inputs}
    assert inputs == {(repo, hub.commit(repo)) for repo in ("someone/base", "someone/adapter")}
    assert all(record.blake3 for record in manifest.inputs)


def test_a_plan_of_two_repositories_reads_headers_and_fetches_no_weights(
    hub: Hub, tmp_path: Path
) -> None:
    said = mergeline(hub, tmp_path, "plan")

    assert "stream on the CPU: tensor by tensor: 2 merged" in said
    weights = [request for request in hub.requests if "model.safetensors" in request]
    assert weights
    assert all("bytes=" in request for request in weights)
    assert not list((tmp_path / "cache").rglob("*model.safetensors"))
