"""On which modules PEFT puts an adapter, told by its config, and whether its file holds just these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pipeline.checkpoint.adapter import CONFIG, AdapterCheckpoint
from pipeline.errors import MergeError


def check_targets(
    adapter: AdapterCheckpoint, takers: Mapping[str, str], modules: AbstractSet[str]
) -> None:
    """Raise MergeError where an adapter's config and its file name different modules.

    `takers` are the modules that the adapter's own tensors belong to, by the names of these; `modules` are
    those of the model that have a weight. Others are not looked at.
    """
    meant = targeted(adapter.config, modules)
    if meant is None:
        return
    if strange := [name for name, module in takers.items() if module in modules - meant]:
        raise left_out(adapter, strange)
    if empty := meant - set(takers.values()):
        raise lacks(adapter, sorted(empty))


def targeted(config: Mapping[str, Any], modules: Iterable[str]) -> set[str] | None:
    """Those of the modules that an adapter's config names, as PEFT reads it; None where it leaves that open.

    A list names modules or their ends, a text is a regular expression for whole names.
    """
    targets = config.get("target_modules")
    if not targets or str(targets).lower() == "all-linear":
        return None  # PEFT writes down what it made of these when it saves an adapter
    ends = tuple(config.get("target_parameters") or ())
    return {
        name
        for name in modules
        if f".{name}.weight".endswith(ends)
        or (_named(name, targets) and not _excluded(name, config) and _in_layers(name, config))
    }


def left_out(adapter: AdapterCheckpoint, names: Sequence[str]) -> MergeError:
    """The error for tensors of modules that the adapter's config does not name."""
    return MergeError(
        f"its `target_modules` leave out the module of {some(names)}",
        where=adapter.source.where(CONFIG),
        fix=f"its {CONFIG} does not belong to its weights: take the one of the same training",
    )


def lacks(adapter: AdapterCheckpoint, names: Sequence[str]) -> MergeError:
    """The error for modules, or tensors of the model, that an adapter should fill and does not."""
    return MergeError(
        f"the adapter's file lacks {some(names)}, so that part of it was never trained",
        where=adapter.source.where(adapter.weights),
        fix=f"its {CONFIG} does not belong to its weights, or to this base",
    )


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _named(name: str, names: str | Sequence[str]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, name) is not None
    return name in names or any(name.endswith(f".{end}") for end in names)


def _excluded(name: str, config: Mapping[str, Any]) -> bool:
    saved = config.get("modules_to_save") or ()
    if any(re.match(rf"(^|.*\.){one}($|\..*)", name) for one in saved):
        return True
    return _named(name, config.get("exclude_modules") or [])


def _in_layers(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a module lies in one of the layers that the config names, or it names none."""
    wanted, targets = config.get("layers_to_transform"), config["target_modules"]
    if wanted in (None, []) or isinstance(targets, str) or name in targets:
        return True
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    places = [rf"(?:^|.*?\.){pattern}" for pattern in patterns] or [r".*?\.[^.]*"]
    for place in places:
        if found := re.match(rf"{place}\.(?P<layer>\d+)\.", name):
            return int(found["layer"]) in ([wanted] if isinstance(wanted, int) else wanted)
    return False
