"""What the installed PEFT knows: adapter types and the options of each, and which can be merged.

Read from PEFT's source text, because importing PEFT takes seconds and a plan must answer at once.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

SCALABLE = frozenset({"LORA", "LOHA", "LOKR"})
"""Types whose effect is a delta that a weight can multiply."""

_PROMPTS = (
    "it adds learned tokens or states in front of the input and changes no weight of the base",
    "serve it attached: `generate` and `evaluate` work, and `save_adapter` writes it",
)
_ROUTED = (
    "it mixes several sets of weights anew for every input, so no fixed weight equals it",
    "serve it attached: `generate` and `evaluate` work, and `save_adapter` writes it",
)
UNMERGEABLE: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "PROMPT_TUNING",
            "MULTITASK_PROMPT_TUNING",
            "P_TUNING",
            "PREFIX_TUNING",
            "CPT",
            "CARTRIDGE",
        ),
        _PROMPTS,
    ),
    "ADAPTION_PROMPT": _PROMPTS,
    **dict.fromkeys(("POLY", "XLORA", "LILY", "SHADOW"), _ROUTED),
}
"""Types that cannot become weights of the base: why, and what to do instead."""

RENAMED: Mapping[str, str] = {"BONE": "MISS"}
"""Types that older versions of PEFT wrote under another name, and in another form."""


def peft_version() -> str:
    """Version of the installed PEFT."""
    return importlib.metadata.version("peft")


@cache
def type_names() -> tuple[str, ...]:
    """The `peft_type`s that the installed PEFT has."""
    return _members("PeftType")


@cache
def task_names() -> tuple[str, ...]:
    """The `task_type`s that the installed PEFT has."""
    return _members("TaskType")


@cache
def options_of(peft_type: str) -> frozenset[str]:
    """Names of the options of a type's config class, inherited ones included."""
    mark = f"PeftType.{peft_type}"
    tuners = _root() / "tuners"
    shared = [_root() / "config.py", tuners / "lycoris_utils.py"]
    for file in sorted(tuners.glob("*/config.py")):
        text = file.read_text(encoding="utf-8")
        if any(line.split("#")[0].rstrip().endswith(mark) for line in text.splitlines()):
            classes = _classes([*shared, *_parents(file, tuners), file])
            name = next(n for n, node in classes.items() if mark in _assigned_types(node))
            return frozenset(_fields(name, classes))
    raise KeyError(peft_type)


def _members(enumeration: str) -> tuple[str, ...]:
    tree = ast.parse((_root() / "utils" / "peft_types.py").read_text(encoding="utf-8"))
    kinds = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == enumeration)
    return tuple(
        node.value.value
        for node in kinds.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _root() -> Path:
    spec = importlib.util.find_spec("peft")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _parents(file: Path, tuners: Path) -> Iterable[Path]:
    """Config files of other types that a config file imports its base class from."""
    for node in _tree(file).body:
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and "Config" in str([a.name for a in node.names])
        ):
            part = node.module.removeprefix("peft.tuners.").split(".")[0]
            parent = tuners / part / "config.py"
            if parent.is_file():
                yield parent


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _classes(files: Iterable[Path]) -> dict[str, ast.ClassDef]:
    return {
        node.name: node
        for file in files
        for node in _tree(file).body
        if isinstance(node, ast.ClassDef)
    }


def _assigned_types(node: ast.ClassDef) -> set[str]:
    return {
        ast.unparse(inner.value)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Assign) and getattr(inner.targets[0], "attr", "") == "peft_type"
    }


def _fields(name: str, classes: Mapping[str, ast.ClassDef]) -> Iterable[str]:
    node = classes.get(name)
    if node is None:
        return
    for parent in node.bases:
        yield from _fields(ast.unparse(parent).rpartition(".")[2], classes)
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            yield inner.target.id
