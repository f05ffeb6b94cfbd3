"""Does an adapter belong to a base? By the name that its training noted."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.blueprint import Base
from pipeline.checkpoint.adapter import AdapterCheckpoint
from pipeline.checkpoint.base import BaseCheckpoint
from pipeline.checkpoint.source import is_path

_QUANTIZED = re.compile(r"([-_.](unsloth|bnb|[48][-_]?bit|nf4|fp4|int[48]|q?lora))+$")


def doubts_about_base(adapter: AdapterCheckpoint, base: Base, found: BaseCheckpoint) -> list[str]:
    """What a user should hear when the adapter names another base than the one that is loaded."""
    named = adapter.base_model_name
    if not named:
        return []
    here = {
        base.model,
        *([found.config["_name_or_path"]] if found.config.get("_name_or_path") else []),
    }
    if named in here or _same_folder(named, base.model):
        return _doubts_about_revision(adapter, found)
    names = {_plain_name(reference) for reference in here}
    if _plain_name(named) not in names:
        return [
            f"{adapter.source.reference} was trained on {named!r}, and the base is {base.model!r}: "
            "make sure that they are the same model"
        ]
    if is_path(named) or is_path(base.model):
        return []
    return [
        f"{adapter.source.reference} was trained on {named!r}, by its name another copy of {base.model!r}"
    ]


def _doubts_about_revision(adapter: AdapterCheckpoint, found: BaseCheckpoint) -> list[str]:
    wanted, commit = adapter.base_revision, found.source.commit
    if commit is None or wanted in (None, "main", commit):
        return []
    return [
        f"{adapter.source.reference} was trained on revision {wanted!r} of its base, and the base is "
        f"loaded at {commit[:12]}"
    ]


def _plain_name(reference: str) -> str:
    """`unsloth/Llama-3.1-8B-bnb-4bit` and `/models/Llama-3.1-8B/` are both `llama-3.1-8b`."""
    name = reference.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return _QUANTIZED.sub("", name)


def _same_folder(one: str, other: str) -> bool:
    if not (is_path(one) and is_path(other)):
        return False
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
