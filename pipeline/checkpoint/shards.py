"""Which files hold the weights: one file, or shards under an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.checkpoint.source import Source
from pipeline.errors import InputError

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True)
class Weights:
    """The files of a checkpoint's weights."""

    files: tuple[str, ...]
    pickle: bool = False
    index: tuple[str, ...] = ()
    """The index file, when there are shards."""
    weight_map: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> file, as the index says; empty for a single file."""


def find_weights(source: Source) -> Weights:
    """The weights of a base in transformers' layout, safetensors first. Raises InputError."""
    for name, pickle in ((_SAFE, False), (_PICKLED, True)):
        if name in source.files:
            return Weights((name,), pickle)
        if f"{name}.index.json" in source.files:
            weight_map = read_index(source, f"{name}.index.json")
            return Weights(
                tuple(sorted(set(weight_map.values()))), pickle, (f"{name}.index.json",), weight_map
            )
    raise InputError("has no weights", where=source.reference, fix=_instead(source))


def read_index(source: Source, name: str) -> Mapping[str, str]:
    """Tensor -> file from an index file, whose files must exist, in the folder. Raises InputError."""
    where = source.where(name)
    parsed = source.read_json(name) or {}
    weight_map = parsed.get("weight_map")
    again = "copy or download the model again"
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError("has no `weight_map`", where=where, fix=again)
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise InputError(f"names no file for {tensor}", where=where, fix=again)
        if (
            file.startswith(("/", "\\"))
            or ".." in file.replace("\\", "/").split("/")
            or ":" in file
        ):
            raise InputError(
                f"points outside the folder for {tensor}: {file}",
                where=where,
                fix="do not use this checkpoint unless you know why it does that",
            )
        if file not in source.files:
            missing = sorted({f for f in weight_map.values() if f not in source.files})
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"names files that are missing: {missing[0]}{more}", where=where, fix=again
            )
    return weight_map


def _instead(source: Source) -> str:
    names = list(source.files)
    parts = [n for n in names if n.startswith("model-") and n.endswith(".safetensors")]
    if parts:
        return f"there are shards ({parts[0]}, ...) and no {_SAFE}.index.json: copy or download it as well"
    if any(n.endswith(".gguf") for n in names):
        return "GGUF is a format for llama.cpp; give the folder of the model it was made from"
    if "adapter_config.json" in names:
        return "this is an adapter: give its base here, and the adapter to `attach_adapter`"
    if any(n.startswith(("tf_model", "flax_model")) for n in names):
        return "it has weights for TensorFlow or Flax only; take a version with safetensors"
    others = [n for n in names if n.endswith(".safetensors")]
    if others:
        return f"the weights must be named {_SAFE}; there is {others[0]}"
    return f"expected {_SAFE}, or {_SAFE}.index.json with its shards: copy or download it again"
