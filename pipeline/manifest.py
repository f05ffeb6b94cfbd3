"""The manifest: what a run was asked, what it did, what went in and what came out.

Written at the start of a run and after every step, so that a killed run still tells how far it came.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import __version__, secrets
from pipeline.checkpoint.publish import write_atomic
from pipeline.errors import InputError

SCHEMA_VERSION: Literal[2] = 2
FILE_NAME = "manifest.json"

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "numba",
    "llvmlite",
    "hydra-core",
    "omegaconf",
    "lm_eval",
)
"""Distributions whose version can change bytes of a result or the way in which a recipe is read."""

Figure = float | int | str | bool | None
"""A value of a metric."""

RunStatus = Literal["running", "done", "failed", "interrupted"]
StepStatus = Literal["waiting", "running", "done", "failed", "interrupted", "skipped"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileRecord(_Record):
    """A file that went in or came out."""

    path: str
    """As it can be found again: absolute, or relative to the run's folder when it lies in there; of a
    file of the Hub that was not fetched, its name in the repository."""
    bytes: int
    blake3: str | None = None
    """Of what went in, taken last: null in a run that did not come so far."""
    repo: str | None = None
    """For a file of the Hub: the repository's id."""
    commit: str | None = None
    """For a file of the Hub: the commit it was read at."""


class ErrorRecord(_Record):
    """Why a step failed."""

    type: str
    what: str
    where: str | None = None
    fix: str | None = None


class Histogram(_Record):
    """How often values occur."""

    least: float
    most: float
    counts: list[int]
    """Values in each of as many bins of equal width, from the least value to the most."""


class StepRecord(_Record):
    """One step of the run."""

    id: str
    step: str
    preset: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    """As resolved: preset, recipe, overrides and interpolations put together."""
    does: str = ""
    """What the plan said of it, in a line."""
    status: StepStatus = "waiting"
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    """Most resident memory of the process during the step."""
    metrics: dict[str, Figure] = Field(default_factory=dict)
    bounds: dict[str, Figure] = Field(default_factory=dict)
    """What the metrics of these names were held against."""
    modules: dict[str, dict[str, Figure]] = Field(default_factory=dict)
    """Figures of single modules, by the module's name in the model, as `model.layers.0.mlp.up_proj`."""
    histograms: dict[str, Histogram] = Field(default_factory=dict)
    """Such as `logit_differences`: the saved model's logits less the trained one's."""
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    outputs: list[FileRecord] = Field(default_factory=list)
    error: ErrorRecord | None = None


class Manifest(_Record):
    """A run, complete or as far as it came."""

    schema_version: Literal[2] = SCHEMA_VERSION
    status: RunStatus = "running"
    recipe: str
    """Name of the recipe."""
    recipe_file: str
    recipe_blake3: str
    run_dir: str
    started: datetime
    finished: datetime | None = None
    seconds: float | None = None
    overrides: list[str] = Field(default_factory=list)
    """Command-line overrides as typed."""
    resolved: dict[str, Any] = Field(default_factory=dict)
    """The whole recipe as Hydra composed it, interpolations resolved."""
    fingerprint: str
    """SHA-256 of the resolved recipe without the run's own folder."""
    engine: str
    tags: list[str] = Field(default_factory=list)
    steps: list[StepRecord] = Field(default_factory=list)
    inputs: list[FileRecord] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    """What planning found worth saying."""
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, str] = Field(default_factory=dict)
    git_commit: str | None = None
    """Commit of the folder in which the run was started, with `-dirty` when files differ from it."""
    error: ErrorRecord | None = None

    @property
    def metrics(self) -> dict[str, Figure]:
        """All figures of the run as `<step id>.<name>`."""
        return {f"{s.id}.{name}": value for s in self.steps for name, value in s.metrics.items()}

    @property
    def outputs(self) -> list[FileRecord]:
        """All files that the steps wrote."""
        return [record for s in self.steps for record in s.outputs]

    def write(self) -> None:
        """Replace `manifest.json` in the run's folder, all at once and without secrets."""
        data = secrets.redact(self.model_dump(mode="json"))
        write_atomic(
            Path(self.run_dir) / FILE_NAME, json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        )


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a run's folder (or the file itself). Raises InputError."""
    file = path if path.is_file() else path / FILE_NAME
    try:
        return Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "there is no run in this folder",
            where=path,
            fix="name a folder that `mergeline run` made",
        ) from None
    except (ValidationError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"not a manifest of a run: {reason}", where=file) from error


def for_json(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """The figures with infinity and NaN, which JSON does not have, as words."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }


def schema() -> dict[str, Any]:
    """JSON Schema of `manifest.json`."""
    from pipeline.documented import Documented

    return Manifest.model_json_schema(schema_generator=Documented)


@cache
def versions() -> dict[str, str]:
    """Mergeline, Python and the libraries that can change bytes, without importing any of them."""
    found = {"mergeline": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict[str, str]:
    """What the results may depend on besides the software."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def git_commit(folder: Path) -> str | None:
    """Commit that `folder` is checked out at, or None outside a repository or without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
