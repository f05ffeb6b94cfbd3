"""Does an adapter belong to a base? By the name that its training noted, and by shapes."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.blueprint import Base
from pipeline.checkpoint.adapter import AdapterCheckpoint
from pipeline.checkpoint.base import BaseCheckpoint
from pipeline.checkpoint.source import is_path
from pipeline.errors import InputError

_QUANTIZED = re.compile(r"([-_.](unsloth|bnb|[48][-_]?bit|nf4|fp4|int[48]|q?lora))+$")
_LORA_A = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_A\.weight$")
_RESIZED = ("embed", "wte", "lm_head", "embed_out", "score", "classifier")
"""Modules that a training may have resized with the vocabulary or the labels; loading resizes them too."""


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


def check_shapes(adapter: AdapterCheckpoint, base: BaseCheckpoint) -> None:
    """Raise InputError when a LoRA matrix cannot fit the base tensor of its name.

    Reads headers only, of local safetensors files. Modules that the headers do not name as they are
    (renamed at load, fused, packed in 4 bits) are left to the load, which claims every tensor.
    """
    if adapter.peft_type != "LORA" or None in (adapter.source.folder, base.source.folder):
        return
    if base.quantization is not None:
        return
    for name, matrix in adapter.tensors.items():
        match = _LORA_A.match(name)
        if match is None or any(part in match["module"] for part in _RESIZED):
            continue
        other = adapter.tensors.get(name.replace(".lora_A.", ".lora_B."))
        weight = _base_tensor(match["module"], base)
        if (
            other is None
            or weight is None
            or not len(matrix.shape) == len(other.shape) == len(weight) == 2
        ):
            continue
        delta = (other.shape[0], matrix.shape[1])
        # Conv1D layers (GPT-2) store their weight the other way round.
        if weight not in (delta, delta[::-1]):
            raise InputError(
                f"does not fit the base: its delta is {_times(delta)}, and {match['module']}.weight "
                f"of the base is {_times(weight)}",
                where=f"{adapter.source.where(adapter.weights)}: {name}",
                fix=f"load the base that it was trained on ({adapter.base_model_name or 'not named'})",
            )


def _doubts_about_revision(adapter: AdapterCheckpoint, found: BaseCheckpoint) -> list[str]:
    wanted, commit = adapter.base_revision, found.source.commit
    if commit is None or wanted in (None, "main", commit):
        return []
    return [
        f"{adapter.source.reference} was trained on revision {wanted!r} of its base, and the base is "
        f"loaded at {commit[:12]}"
    ]


def _base_tensor(module: str, base: BaseCheckpoint) -> tuple[int, ...] | None:
    """Shape of a module's weight, whose key may or may not carry the name of the inner model."""
    short = module.partition(".")[2]
    for key in (f"{module}.weight", f"{short}.weight"):
        if key in base.tensors:
            return base.tensors[key].shape
    return None


def _plain_name(reference: str) -> str:
    """`unsloth/Llama-3.1-8B-bnb-4bit` and `/models/Llama-3.1-8B/` are both `llama-3.1-8b`."""
    name = reference.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return _QUANTIZED.sub("", name)


def _same_folder(one: str, other: str) -> bool:
    if not (is_path(one) and is_path(other)):
        return False
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
