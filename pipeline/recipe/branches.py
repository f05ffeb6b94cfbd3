"""`for_each`: a step with several values parts the recipe into branches, and each goes on with one of them.

    - attach_adapter: {for_each: "adapters/*"}              # folders that match
    - attach_adapter: {for_each: [./french, owner/pirate]}  # values of the option that must be given
    - save: {for_each: [{dtype: float16}, {dtype: bfloat16}]}
    - attach_adapter: {for_each: {weak: {path: ./a, weight: 0.3}, strong: {path: ./a, weight: 0.9}}}

The keys of a mapping name the branches; else the last part of a path does, or the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import Problem
from pipeline.recipe.compile import FOR_EACH, Line
from pipeline.recipe.defaults import REQUIRED, defaults_of
from pipeline.recipe.matching import matching
from pipeline.recipe.resolve import MISSING

_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Branch:
    """One way through the recipe."""

    names: tuple[str, ...] = ()
    """One for each `for_each` that it has passed."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each of those set, by the id of the step."""

    @property
    def name(self) -> str:
        return "-".join(self.names)

    def id(self, line: Line) -> str:
        """What a step is called in this branch: `save.french`."""
        return ".".join([line.id, *([self.name] if self.names else [])])


class WrongError(Exception):
    """What is wrong with a `for_each`."""

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.problem = Problem(what, fix)


def parted(branches: Sequence[Branch], line: Line, value: Any) -> list[Branch]:
    """The branches that go on after a step with this `for_each`. Raises WrongError."""
    rows = _rows(line, value)
    found = [
        Branch((*branch.names, name), {**branch.options, line.id: options})
        for branch in branches
        for name, options in rows.items()
    ]
    twice = _first_twice([branch.name for branch in found])
    if twice is not None:
        raise WrongError(f"two branches would be called {twice!r}", _NAME_THEM)
    return found


@contextmanager
def standing(config: DictConfig, branch: Branch) -> Iterator[None]:
    """Let a composed recipe be that of one branch: its values in their steps, and `${branch.name}`."""
    if not branch.names:
        yield
        return
    with flag_override(config, ["struct", "readonly"], False):
        before = {id: config.steps[id] for id in branch.options}
        run, name = config._get_node("run"), config._get_node("branch")
        with suppress(OmegaConfBaseException):
            config.run = {"dir": config.run.dir}  # all branches lie in the folder of one run
        config.branch = {"name": branch.name}
        for id, options in branch.options.items():
            raw: Any = OmegaConf.to_container(before[id], resolve=False)
            config.steps[id] = {**raw, **_literal(options), FOR_EACH: None}
        try:
            yield
        finally:
            config.run, config.branch = run, name
            for id, node in before.items():
                config.steps[id] = node


def _literal(value: Any) -> Any:
    """A value that is resolved already, or the name of a folder: `${` in it stands for itself."""
    if isinstance(value, Mapping):
        return {key: _literal(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_literal(child) for child in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _rows(line: Line, value: Any) -> dict[str, Mapping[str, Any]]:
    """The options that each branch has, by its name."""
    if value is MISSING or value in (None, "", [], {}):
        raise WrongError("has no values", "give a pattern such as adapters/*, a list, or a mapping")
    main = _main_option(line)
    if isinstance(value, Mapping):
        odd = next((name for name in value if not _NAME.fullmatch(str(name))), None)
        if odd is not None:
            fix = "a branch is named with letters, digits, `_`, `-` and `.`"
            raise WrongError(f"{odd!r} cannot be the name of a branch", fix)
        return {str(name): _options(line, main, one) for name, one in value.items()}
    listed = value if isinstance(value, list) else [value]
    rows = [_options(line, main, one) for item in listed for one in _matched(item)]
    names = _names(rows, main)
    if names is None:
        raise WrongError("two of the values are the same", _NAME_THEM)
    return dict(zip(names, rows, strict=True))


def _main_option(line: Line) -> str | None:
    """The one option of the step that must be given."""
    required = [name for name, value in defaults_of(line.step).items() if value == REQUIRED]
    return required[0] if len(required) == 1 else None


def _options(line: Line, main: str | None, value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping) and value:
        return value
    if main is None or isinstance(value, Mapping | list) or value is None:
        what = f"{value!r} does not say which option of `{line.step.name}` it is for"
        raise WrongError(what, "write each value as {option: value}")
    return {main: value}


def _matched(item: Any) -> list[Any]:
    """The folders that a pattern matches; anything else is itself."""
    if not (isinstance(item, str) and has_magic(item)):
        return [item]
    found = [path for path in matching([item]) if Path(path).is_dir()]
    if not found:
        fix = f"the folder that it starts from is {Path.cwd()}"
        raise WrongError(f"no folder matches {item}", fix)
    return found


def _names(rows: Sequence[Mapping[str, Any]], main: str | None) -> list[str] | None:
    """Names from as few parts of the paths as tell all of them apart."""
    parts = [_parts(options, main) for options in rows]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["-".join(one[-count:]) for one in parts]
        if _first_twice(names) is None:
            return names
    return None


def _parts(options: Mapping[str, Any], main: str | None) -> list[str]:
    path = str(options[main]).split("/") if main and main in options else []
    others = [str(value) for name, value in options.items() if name != main]
    kept = [plain for part in path if (plain := _plain(part))]
    last = "-".join([*kept[-1:], *(_plain(value) or "none" for value in others)])
    return [*kept[:-1], last or "branch"]


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def _first_twice(names: Sequence[str]) -> str | None:
    return next((name for n, name in enumerate(names) if name in names[:n]), None)


_NAME_THEM = "name the branches: for_each: {NAME: value, ...}"
