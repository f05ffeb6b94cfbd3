"""`mergeline.json`, which lies in every model folder that a run publishes.

With it the folder can be checked and made again, later and elsewhere, without the run's manifest.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline import secrets
from pipeline.blueprint import Blueprint, Engine, SavedDtype
from pipeline.checkpoint.publish import write_atomic
from pipeline.errors import InputError
from pipeline.manifest import Figure

FILE_NAME = "mergeline.json"


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise ValueError(f"the name {name!r} leaves the folder")
    return name


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HashedFile(_Record):
    """A file and what it hashes to."""

    name: Annotated[str, AfterValidator(_inside)]
    """Relative to its folder or repository."""
    bytes: int
    blake3: str


class Input(_Record):
    """The base, or an adapter."""

    role: Literal["base", "adapter"]
    reference: str
    """Where it was read: an absolute folder of the machine that did it, or an id on the Hub."""
    commit: str | None = None
    """For a model of the Hub."""
    files: list[HashedFile]


class Saved(_Record):
    """How `save` wrote the model."""

    dtype: SavedDtype = "keep"
    max_shard_size: str
    engine: Engine
    """As the recipe asked."""
    device: str
    """Where a live model was built."""
    seed: int


class Proof(_Record):
    """A check that was done on the folder."""

    step: str
    """The id of the step that did it."""
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    passed: bool
    figures: dict[str, Figure]


class Receipt(_Record):
    """What a model folder was made of, and how."""

    schema_version: Literal[1] = 1
    fingerprint: str
    """SHA-256 over all that can change a byte of the folder: the blueprint, the inputs' hashes, the settings
    of `save` and the versions, but not where anything lies."""
    made: datetime
    blueprint: Blueprint
    """The model: which base, in which precision, with which adapters merged."""
    saved: Saved
    inputs: list[Input]
    """The base, then the adapters in their order."""
    files: list[HashedFile]
    """All files of the folder but this one."""
    proofs: list[Proof] = Field(default_factory=list)
    recipe: str
    """Name of the recipe."""
    resolved: dict[str, Any]
    """The whole recipe of the run as Hydra composed it, interpolations resolved."""
    versions: dict[str, str]
    machine: dict[str, str]

    @model_validator(mode="after")
    def _inputs_are_those_of_the_blueprint(self) -> Receipt:
        wanted = ["base", *("adapter" for _ in self.blueprint.all_adapters)]
        if [one.role for one in self.inputs] != wanted:
            raise ValueError(f"its inputs are not one base and {len(wanted) - 1} adapters")
        return self

    def to_json(self) -> str:
        """The text of the file, without secrets."""
        data = secrets.redact(self.model_dump(mode="json"))
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_receipt(folder: Path) -> Receipt:
    """The receipt in a model folder. Raises InputError when there is none, or it is none."""
    file = folder / FILE_NAME
    try:
        return Receipt.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "has no receipt",
            where=file,
            fix="name a folder that `save` of Mergeline wrote, whole",
        ) from None
    except (ValidationError, ValueError, OSError) as error:
        reason = "; ".join(str(error).splitlines()[:3]) or type(error).__name__
        raise InputError(
            f"is not a receipt: {reason}", where=file, fix="copy or download the folder again"
        ) from error


def add_proof(folder: Path, proof: Proof) -> bool:
    """Put a proof into the folder's receipt, all at once; False when the folder has none.

    It takes the place of an earlier one of the same step.
    """
    if not (folder / FILE_NAME).is_file():
        return False
    receipt = read_receipt(folder)
    others = [known for known in receipt.proofs if known.step != proof.step]
    changed = receipt.model_copy(update={"proofs": [*others, proof]})
    write_atomic(folder / FILE_NAME, changed.to_json())
    return True


def schema() -> dict[str, Any]:
    """JSON Schema of `mergeline.json`."""
    from pipeline.documented import Documented

    return Receipt.model_json_schema(mode="serialization", schema_generator=Documented)
