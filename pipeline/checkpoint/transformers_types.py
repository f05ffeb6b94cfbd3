"""What the installed transformers knows: model types and their classes, from its source text.

Importing transformers' auto classes takes a second, and a plan must answer at once.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path

INTERNALS = {
    "_load_pretrained_model": "modeling_utils.py",
    "_finalize_model_loading": "modeling_utils.py",
    "remove_tied_weights_from_state_dict": "modeling_utils.py",
    "apply_renamings": "core_model_loading.py",
    "revert_weight_conversion": "core_model_loading.py",
}
"""Functions with which parts of a model are made; they are no part of transformers' interface, and may go."""


def version() -> str:
    """Version of the installed transformers."""
    return importlib.metadata.version("transformers")


def knows_model_type(kind: str) -> bool:
    """Whether transformers has this `model_type`, without code from elsewhere."""
    return kind in _model_types()


def nearest_model_type(kind: str) -> str:
    """A did-you-mean for a misspelt model type, or nothing."""
    near = difflib.get_close_matches(kind, _model_types(), n=1, cutoff=0.8)
    return f"; did you mean {near[0]!r}?" if near else ""


@cache
def has_class(kind: str, name: str) -> bool:
    """Whether transformers' code has a class of that name (in any case: LLaMAForCausalLM is an old form)."""
    if re.search(rf"^class {re.escape(name)}\b", _modeling(kind), re.MULTILINE | re.IGNORECASE):
        return True
    auto = (_root() / "models" / "auto" / "modeling_auto.py").read_text("utf-8")
    return f'"{name}"' in auto


@cache
def renames_tensors(kind: str) -> bool:
    """Whether a load of this `model_type` may rename or fuse the tensors of the files.

    transformers keeps its renamings under names of types and of classes, all in one file.
    """
    file = _root() / "conversion_mapping.py"
    named = set(re.findall(r'"(\w+)"', file.read_text("utf-8"))) if file.is_file() else set()
    classes = re.findall(r"^class (\w+)", _modeling(kind), re.MULTILINE)
    return kind in named or not named.isdisjoint(classes)


def ignores_tensors(kind: str) -> bool:
    """Whether models of a type may leave out tensors of their files without a word."""
    return "_keys_to_ignore_on_load_unexpected" in _modeling(kind)


def lacking_internals() -> list[str]:
    """Those of `INTERNALS` that the installed transformers does not have."""
    return [name for name, file in INTERNALS.items() if not _defines(_root() / file, name)]


def _defines(file: Path, name: str) -> bool:
    return file.is_file() and f"def {name}(" in file.read_text("utf-8")


def _modeling(kind: str) -> str:
    """The code of the models of a type."""
    folders = {_root() / "models" / kind, _root() / "models" / kind.replace("-", "_")}
    return "".join(f.read_text("utf-8") for d in folders for f in sorted(d.glob("modeling_*.py")))


@cache
def _model_types() -> frozenset[str]:
    folder = _root() / "models" / "auto"
    text = "".join(
        (folder / n).read_text("utf-8") for n in ("auto_mappings.py", "configuration_auto.py")
    )
    return frozenset(re.findall(r'"([\w.-]+)"(?:, |: )"\w+Config"', text)) - {"CONFIG_MAPPING"}


def _root() -> Path:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
