"""Do the configs of a folder say what base and adapters make of them?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoint.source import Source
from pipeline.errors import InputError
from pipeline.proof.findings import Findings

_FREE = frozenset(
    {
        *("transformers_version", "_name_or_path", "use_cache"),
        *("dtype", "torch_dtype", "quantization_config"),
    }
)
"""Keys that change no prediction, and those that `check_structure` holds against the tensors."""


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as transformers reads it, with all defaults. Raises InputError when it cannot."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            str(error).splitlines()[0],
            where=folder / "config.json",
            fix="compare it with the one of the base",
        ) from error
    return dict(config.to_dict())


def check_config(folder: Path, write: Callable[[Path], None], found: Findings) -> None:
    """Hold config.json against the one that `write` puts into a folder for the same model.

    Both are read by transformers, so that names of old and defaults count as what they stand for. Code that
    comes with a model is not run for it.
    """
    with tempfile.TemporaryDirectory(prefix="mergeline-") as scratch:
        write(Path(scratch))
        try:
            right, there = (read_config(one) for one in (Path(scratch), folder))
        except InputError as error:
            found.skipped.append(f"config.json against the base's: {error.what}")
            return
    said = _differences(right, there)
    for key, (expected, value) in sorted(said.items()):
        found.fault("config.json", f"says {key} {value}, and base and adapters make {expected}")
    found.checked.append("config.json against what base and adapters make")


def check_generation_config(folder: Path, base: Source, found: Findings) -> None:
    """Hold generation_config.json, where the base has one, against that."""
    name = "generation_config.json"
    right = base.read_json(name)
    if right is None:
        return
    try:
        there = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        found.fault(name, "is missing: the base has it")
        return
    except ValueError:
        there = None
    if not isinstance(there, dict) or _differences(right, there):
        found.fault(name, "is not the one of the base")


def _differences(
    right: Mapping[str, Any], there: Mapping[str, Any], within: str = ""
) -> dict[str, tuple[Any, Any]]:
    """What differs, by its key with those that it lies within: the right value and the one that is there."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in (right.keys() | there.keys()) - _FREE:
        one, other = right.get(key), there.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= _differences(one, other, f"{within}{key}.")
        elif one != other:
            found[f"{within}{key}"] = one, other
    return found
