"""Read a YAML file into plain data, with the place of every key and all that is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import Place, Problem

Path_ = tuple[str | int, ...]
"""The keys and list positions that lead to a value."""

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000
"""Counted after aliases are followed, so that a few lines cannot unfold into gigabytes."""
MAX_DEPTH = 40


@dataclass(frozen=True)
class Document:
    """One YAML file. Where it is wrong, `data` holds what could still be understood."""

    file: str
    """As the user named it."""
    data: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[Path_, Place] = field(default_factory=dict)
    """A key of a mapping, or an item of a list, to where it starts."""
    problems: tuple[Problem, ...] = ()

    def place(self, path: Path_) -> Place:
        """The place of a value, or of the nearest one around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.file))


def read_yaml(path: Path, shown: str | None = None) -> Document:
    """Read a file that should hold one YAML mapping; never raises for what is in it."""
    file = shown or _shown(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            return _wrong(
                file, f"the file is larger than {MAX_BYTES >> 20} MB", "is it the right file?"
            )
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return _wrong(file, "the file is not UTF-8 text", "save it with the encoding UTF-8", line)
    except OSError as error:
        return _wrong(file, f"cannot be read: {error.strerror}", None)
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str) -> Document:
    """As `read_yaml`, for text that is at hand."""
    loader = _loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return _wrong(file, "the file is empty", None)
        if not isinstance(node, yaml.MappingNode):
            mark = node.start_mark
            what = f"must be a mapping of keys to values, not {_kind(node)}"
            return _wrong(file, what, None, mark.line + 1, mark.column + 1)
        walk = _Walk(loader, file)
        data = walk.value(node, ())
        return Document(file, data, walk.places, tuple(walk.problems))
    except yaml.YAMLError as error:
        return Document(file, problems=(_yaml_problem(error, text, file),))
    except _TooBig as error:
        return _wrong(file, str(error), "write it out plainly")
    except RecursionError:
        return _wrong(file, "the file is nested too deeply", "write it out plainly")
    finally:
        loader.dispose()


class _TooBig(Exception):
    """The file unfolds into more than a recipe can be."""


_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")
}


class _Walk:
    """From YAML nodes to data, noting places and collecting problems on the way."""

    def __init__(self, loader: yaml.SafeLoader, file: str) -> None:
        self.loader = loader
        self.file = file
        self.places: dict[Path_, Place] = {}
        self.problems: list[Problem] = []
        self.count = 0
        self.above: list[yaml.Node] = []

    def value(self, node: yaml.Node, path: Path_) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _TooBig(f"the file has more than {MAX_VALUES} values")
        if len(self.above) > MAX_DEPTH:
            raise _TooBig(f"the file is nested more than {MAX_DEPTH} levels deep")
        if any(node is other for other in self.above):
            self.wrong(node, path, "an alias refers to a value that contains it")
            return None
        if node.tag not in _TAGS:
            fix = "remove the tag; a recipe holds plain values only"
            self.wrong(node, path, f"the YAML tag {node.tag!r} is not allowed", fix)
            return None
        self.above.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.item(child, (*path, i)) for i, child in enumerate(node.value)]
            return self.scalar(node, path)
        finally:
            self.above.pop()

    def item(self, node: yaml.Node, path: Path_) -> Any:
        self.places[path] = self.where(node)
        return self.value(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, child in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                parts = child.value if isinstance(child, yaml.SequenceNode) else [child]
                for part in parts:
                    found = self.value(part, path)
                    if isinstance(found, dict):
                        merged = {**found, **merged}
                    else:
                        self.wrong(key_node, path, "`<<` takes a mapping")
                continue
            key = self.key(key_node, path)
            if key is None:
                continue
            if key in own:
                first = self.places[(*path, key)]
                self.wrong(
                    key_node,
                    (*path, key),
                    f"the key is here a second time; the first is in line {first.line}",
                    "remove one of the two",
                )
                continue
            self.places[(*path, key)] = self.where(key_node)
            own[key] = self.value(child, (*path, key))
        return {**merged, **own}

    def key(self, node: yaml.Node, path: Path_) -> str | None:
        if isinstance(node, yaml.ScalarNode):
            value = self.scalar(node, path)
            if isinstance(value, str):
                return value
            fix = f'write it in quotes: "{node.value}"' if node.value else "give the key a name"
            self.wrong(node, path, f"a key must be text, not {_kind(node)}", fix)
        else:
            braces = _BRACES if isinstance(node, yaml.MappingNode) else None
            self.wrong(node, path, f"a key must be text, not {_kind(node)}", braces)
        return None

    def scalar(self, node: yaml.Node, path: Path_) -> Any:
        try:
            return self.loader.construct_object(node)
        except ValueError:
            shown = node.value if len(node.value) < 60 else f"{node.value[:57]}..."
            self.wrong(
                node, path, f"{shown!r} cannot be read as {_kind(node)}", "write it in quotes"
            )
        return None

    def where(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def wrong(self, node: yaml.Node, path: Path_, what: str, fix: str | None = None) -> None:
        key = ".".join(str(part) for part in path)
        self.problems.append(Problem(what, fix, key or None, self.where(node)))


_BRACES = 'an interpolation needs quotes: "${params.name}"'


def _loader(text: str) -> Any:
    # OmegaConf's own rules for scalars (1e-4 is a number), so that a value means the same in a recipe
    # as in a preset and on the command line.
    from omegaconf._utils import get_yaml_loader

    try:
        return get_yaml_loader()(text)
    except yaml.reader.ReaderError as error:
        return _Unreadable(error)


class _Unreadable:
    """Stands for a text that YAML cannot even begin with."""

    def __init__(self, error: yaml.YAMLError) -> None:
        self.error = error

    def get_single_node(self) -> yaml.Node:
        raise self.error

    def dispose(self) -> None:
        pass


def _yaml_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        return Problem(what, "remove it", place=Place(file, line))
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Problem(f"is not YAML: {error}", place=Place(file))
    said = (getattr(error, "problem", None) or "").strip()
    context = (getattr(error, "context", None) or "").strip()
    lines = text.splitlines()
    row = lines[mark.line] if mark.line < len(lines) else ""
    what = "is not YAML: " + ", ".join(part for part in (context, said) if part)
    fix = _yaml_fix(said, row)
    snippet = f"{row.expandtabs(1)}\n    {' ' * mark.column}^" if row else None
    place = Place(file, mark.line + 1, mark.column + 1)
    return Problem(what, "\n    ".join(p for p in (snippet, fix) if p) or None, place=place)


def _yaml_fix(said: str, row: str) -> str | None:
    if "\\t" in said or "\t" in row:
        return "YAML is indented with spaces, not with tabs"
    if re.search(r"""(?<![\w"'/.-])\$\{""", row):
        return _BRACES
    if "found '?'" in said:
        return 'within braces, `???` needs quotes: "???"'
    if "another document" in said or "but found another" in said:
        return "a recipe is one YAML document: remove the line `---`"
    if "mapping values are not allowed" in said:
        return "a value with `: ` in it needs quotes; or the line is indented too far"
    return None


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kinds = {"int": "a number", "float": "a number", "bool": "true or false", "null": "nothing"}
    return kinds.get(node.tag.rpartition(":")[2], "text")


def _wrong(
    file: str, what: str, fix: str | None, line: int | None = None, column: int | None = None
) -> Document:
    return Document(file, problems=(Problem(what, fix, place=Place(file, line, column)),))


def _shown(path: Path) -> str:
    """A path as people would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
