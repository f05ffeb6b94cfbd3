"""Resolve the interpolations of a composed recipe, and say which of them name nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from pipeline.errors import Problem

MISSING = object()
"""Stands where a value must still be given (`???`)."""


@dataclass(frozen=True)
class Failure:
    """An interpolation that could not be resolved."""

    key: str
    """Where it is used: `steps.save.path`."""
    target: str
    """What it names, or what a value on the way names."""
    raw: str
    """The value as it is written."""
    problem: Problem

    @property
    def names(self) -> list[str]:
        """The keys that the value itself refers to."""
        return re.findall(r"\$\{([A-Za-z_][\w.]*)\}", self.raw)


def resolve(config: DictConfig, key: str) -> tuple[Any, list[Failure]]:
    """The value at a dotted key as plain data; where it fails, the values are left out."""
    failures: list[Failure] = []
    parent_key, _, last = key.rpartition(".")
    parent = OmegaConf.select(config, parent_key) if parent_key else config
    value = _value(config, parent, last, key, failures)
    return value, failures


def _value(
    root: DictConfig, parent: Container, name: Any, key: str, failures: list[Failure]
) -> Any:
    node: Any = parent._get_node(name)
    if isinstance(node, DictConfig | ListConfig) and not (
        node._is_none() or node._is_missing() or node._is_interpolation()
    ):
        names: Any = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
        found = {n: _value(root, node, n, f"{key}.{n}", failures) for n in names}
        return found if isinstance(node, DictConfig) else list(found.values())
    if node is not None and OmegaConf.is_missing(parent, name):
        return MISSING
    try:
        value = parent[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, RecursionError) as error:
        failures.append(_failure(root, key, str(node._value()) if node is not None else "", error))
        return None


def _failure(root: DictConfig, key: str, raw: str, error: Exception) -> Failure:
    said = str(error).partition("\n")[0]
    if isinstance(error, InterpolationToMissingValueError):
        target = said.rpartition("Missing mandatory value: ")[2].strip()
        problem = Problem(
            f"{raw} has no value yet: `{target}` must be given",
            f"on the command line: {target}=VALUE",
        )
        if target == "branch.name":
            fix = "it stands for one where an earlier step, or this one, has `for_each`"
            problem = Problem(f"{raw}: there are no branches here", fix)
    elif isinstance(error, InterpolationKeyError):
        match = re.search(r"Interpolation key '(.*?)' not found", said)
        target = match.group(1) if match else raw
        problem = Problem(f"${{{target}}} names nothing", _near(target, root))
    elif isinstance(error, UnsupportedInterpolationType):
        target = said.rpartition(" ")[2]
        fix = "for a value of the recipe write ${params.name}; for the environment, ${oc.env:NAME}"
        problem = Problem(f"{raw}: there is nothing called {target!r} to resolve it with", fix)
    elif "Environment variable" in said:
        match = re.search(r"Environment variable '(.*?)'", said)
        target = match.group(1) if match else raw
        fix = f"set it, or give a default: ${{oc.env:{target},VALUE}}"
        problem = Problem(f"the environment variable {target} is not set", fix)
    elif isinstance(error, RecursionError) or "ecursive" in said:
        target = raw
        problem = Problem(
            f"{raw} refers to itself, directly or through others", "give one of them a value"
        )
    else:
        target = raw
        problem = Problem(f"{raw} cannot be resolved: {said.rpartition('interpolation: ')[2]}")
    return Failure(key, target, raw, problem)


def root_causes(failures: list[Failure]) -> list[Failure]:
    """Leave out the values that fail only because another one that they refer to does."""
    failed = {failure.key: failure for failure in failures}
    return [f for f in failures if f.key in _reach(f, failed) or not set(f.names) & set(failed)]


def _reach(failure: Failure, failed: Mapping[str, Failure]) -> set[str]:
    """The failed keys that a value refers to, directly or through others."""
    reached: set[str] = set()
    pending = list(failure.names)
    while pending:
        key = pending.pop()
        if key in failed and key not in reached:
            reached.add(key)
            pending += failed[key].names
    return reached


def _near(target: str, root: DictConfig) -> str:
    keys = list(_keys(root, ""))
    if f"steps.{target}" in keys:
        return f"did you mean ${{steps.{target}}}?"
    if f"params.{target}" in keys:
        return f"did you mean ${{params.{target}}}?"
    close = difflib.get_close_matches(target, keys, n=1, cutoff=0.6)
    if close:
        return f"did you mean ${{{close[0]}}}?"
    return f"add `{target.rpartition('.')[2]}` to `params`, or write ${{params.NAME}} of one that is there"


def _keys(node: DictConfig, above: str) -> Iterator[str]:
    for name in node:
        if not above and name == "hydra":
            continue
        key = f"{above}{name!s}"
        yield key
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not (
            child._is_none() or child._is_missing() or child._is_interpolation()
        ):
            yield from _keys(child, f"{key}.")


def source_of(config: DictConfig, key: str) -> str:
    """Follow values that are nothing but an interpolation to the key where the value itself stands."""
    for _ in range(20):
        parent_key, _, last = key.rpartition(".")
        try:
            parent = OmegaConf.select(config, parent_key) if parent_key else config
            node: Any = parent._get_node(int(last) if isinstance(parent, ListConfig) else last)
            raw = node._value()
        except (OmegaConfBaseException, AttributeError, ValueError, IndexError):
            return key
        match = re.fullmatch(r"\$\{([A-Za-z_][\w.]*)\}", raw) if isinstance(raw, str) else None
        if match is None:
            return key
        key = match.group(1)
    return key
