"""Load a recipe: find it, read it, compose it with Hydra, check it; all mistakes come out together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.object_type import ObjectType
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import COMMAND_LINE, Place, Problem, RecipeError
from pipeline.recipe.check import check, make_recipe
from pipeline.recipe.compile import NO_PRESET, Compiled
from pipeline.recipe.compose import COMPOSING_ERRORS, Loader, composed, fingerprint
from pipeline.recipe.find import find_recipe
from pipeline.recipe.model import Recipe
from pipeline.recipe.overrides import Said, preset_problem, read_overrides
from pipeline.recipe.source import read_recipe
from pipeline.recipe.yaml_file import read_yaml


@dataclass(frozen=True)
class Asked:
    """A recipe file and a command line, read and held against each other, but not composed."""

    compiled: Compiled
    loader: Loader
    said: tuple[Said, ...]
    presets: Mapping[str, str]
    """The preset of each step, by the step's id."""
    problems: tuple[Problem, ...]

    @property
    def overrides(self) -> list[str]:
        """In Hydra's form."""
        return [item.text for item in self.said]

    def require_sound(self) -> Asked:
        """Raise RecipeError if anything was wrong."""
        if self.problems:
            raise RecipeError(_sorted(self.problems))
        return self


def load(
    reference: str, overrides: Sequence[str] = (), *, config_dir: Path | None = None
) -> Recipe:
    """A recipe with the overrides of one run, composed, typed and free of mistakes of form.

    Raises RecipeError with every mistake of the file, its presets and the command line.
    """
    return load_asked(find_recipe(reference), overrides, config_dir)[0]


def load_asked(
    path: Path, overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[Recipe, Asked]:
    """Like `load`, and with it what the recipe was composed from, for Hydra to run it."""
    asked = read(path, overrides, config_dir)
    if not asked.compiled.lines:
        raise RecipeError(_sorted(asked.problems))
    try:
        with composed(asked.loader, asked.overrides) as config:
            return from_config(config, asked, overrides), asked
    except COMPOSING_ERRORS:
        return _load_what_composes(asked, overrides)


def _load_what_composes(asked: Asked, overrides: Sequence[str]) -> tuple[Recipe, Asked]:
    """Hydra stops at the first mistake; find the others by leaving out what it cannot take."""
    said, wrong = _composable(asked.loader, asked.said)
    asked = replace(asked, said=tuple(said), problems=(*asked.problems, *wrong))
    try:
        with composed(asked.loader, asked.overrides) as config:
            return from_config(config, asked, overrides), asked
    except COMPOSING_ERRORS as error:
        problem = from_hydra(error, Place(asked.compiled.document.file))
        raise RecipeError(_sorted([*asked.problems, problem])) from error


def read(
    path: Path, overrides: Sequence[str], config_dir: Path | None = None, *, multirun: bool = False
) -> Asked:
    """Read a recipe file and the overrides of a command line; collects what is wrong with them."""
    compiled = read_recipe(path)
    problems = list(compiled.problems)
    if config_dir is not None and not config_dir.is_dir():
        what = f"there is no folder {config_dir}"
        problems.append(Problem(what, None, "--config-dir", COMMAND_LINE))
        config_dir = None
    loader = Loader(path, config_dir)
    searchpath = [item for item in overrides if item.startswith("hydra.searchpath=")]
    said, wrong = read_overrides(
        overrides, compiled, lambda group: _presets(loader, group, searchpath), multirun=multirun
    )
    problems += wrong
    said, presets, wrong = _check_presets(loader, compiled, said)
    return Asked(compiled, loader, tuple(said), presets, (*problems, *wrong))


def from_config(config: DictConfig, asked: Asked, overrides: Sequence[str]) -> Recipe:
    """The recipe that Hydra composed, while HydraConfig tells of the same run. Raises RecipeError."""
    places = _places(asked.compiled, asked.loader, asked.presets, asked.said)
    data, calls, wrong = check(asked.compiled, config, places, asked.presets)
    known = {problem.key for problem in asked.problems if problem.key}
    problems = [*asked.problems, *(problem for problem in wrong if problem.key not in known)]
    if problems:
        raise RecipeError(_sorted(problems))
    return make_recipe(asked.compiled, data, calls, places, overrides, fingerprint(config))


def _presets(loader: Loader, group: str, searchpath: Sequence[str] = ()) -> list[str]:
    try:
        names = loader.get_group_options(group, ObjectType.CONFIG, overrides=list(searchpath))
    except COMPOSING_ERRORS:  # the search path is wrong, which composing will say
        names = loader.get_group_options(group, ObjectType.CONFIG)
    return sorted(set(names), key=lambda name: (name != NO_PRESET, name))


def _check_presets(
    loader: Loader, compiled: Compiled, said: Sequence[Said]
) -> tuple[list[Said], dict[str, str], list[Problem]]:
    """The preset that each step ends up with. One that is wrong is replaced by none, so that composing
    goes on and finds the other mistakes."""
    problems: list[Problem] = []
    chosen = {line.id: line.preset for line in compiled.lines}
    for item in said:
        if item.preset and not item.sweep and compiled.line(item.key):
            chosen[item.key] = str(item.value)
    replaced = list(said)
    searchpath = [item.text for item in said if item.key == "hydra.searchpath"]
    for line in compiled.lines:
        preset = chosen[line.id]
        if preset == NO_PRESET:
            continue
        wrong = preset_problem(line, preset, lambda group: _presets(loader, group, searchpath))
        found = [wrong.at(line.place)] if wrong else []
        for file in _preset_files(loader, line.step.name, preset):
            found += read_yaml(file).problems
        if found:
            problems += found
            chosen[line.id] = NO_PRESET
            replaced = [item for item in replaced if not (item.preset and item.key == line.id)]
            text = f"step/{line.step.name}@steps.{line.id}={NO_PRESET}"
            replaced.append(Said("", text, line.id, NO_PRESET, preset=True))
    return replaced, chosen, problems


def _preset_files(loader: Loader, step: str, preset: str) -> list[Path]:
    """The files of a preset: its own, after those of the presets that it names in its `defaults`."""
    files: list[Path] = []
    pending = [preset]
    while pending:
        name = f"step/{step}/{pending.pop()}.yaml"
        for source in loader.get_sources():
            file = Path(source.path) / name
            if source.scheme() == "file" and file.is_file() and file not in files:
                files.insert(0, file)
                defaults = read_yaml(file).data.get("defaults")
                if isinstance(defaults, list):
                    pending += [
                        other for other in defaults if isinstance(other, str) and other != "_self_"
                    ]
                break
    return files


def _composable(loader: Loader, said: Sequence[Said]) -> tuple[list[Said], list[Problem]]:
    """Leave out the overrides that only Hydra itself finds wrong, and say what it found."""
    try:
        with composed(loader, [item.text for item in said]):
            return list(said), []
    except COMPOSING_ERRORS as error:
        whole = error
    base = [item for item in said if not item.typed]
    good, problems = base, []
    for item in said:
        if item.typed:
            try:
                with composed(loader, [other.text for other in [*good, item]]):
                    good = [*good, item]
            except COMPOSING_ERRORS as error:
                problems.append(from_hydra(error, COMMAND_LINE).at(None, item.key))
    return good, problems or [from_hydra(whole, COMMAND_LINE)]


def from_hydra(error: Exception, place: Place) -> Problem:
    """Hydra's words without its advice, which is written for people who write configs, not recipes."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = str(cause or error).partition("Config search path:")[0]
    lines = [line.strip() for line in text.splitlines()]
    advice = (
        "To append",
        "Either remove",
        "Or add",
        "See https",
        "Set the environment",
        "full_key",
        "object_type",
        "reference_type",
    )
    said = [
        re.sub(r"^Key ('.*?') (?:is not in struct|not in '\w+')$", r"there is no key \1", line)
        for line in lines
        if line and not line.startswith(advice)
    ]
    return Problem(" ".join(said) or type(error).__name__, place=place)


def _places(
    compiled: Compiled, loader: Loader, chosen: Mapping[str, str], said: Sequence[Said]
) -> dict[str, Place]:
    """Where each key of the composed config stands: preset files, then the recipe, then the command line."""
    places: dict[str, Place] = {}
    for line in compiled.lines:
        for file in _preset_files(loader, line.step.name, chosen[line.id]):
            for path, place in read_yaml(file).places.items():
                places[".".join(["steps", line.id, *map(str, path)])] = place
    for path, place in compiled.document.places.items():
        if path[:1] != ("steps",):
            places[".".join(map(str, path))] = place
    for line in compiled.lines:
        places[f"steps.{line.id}"] = line.place
        size = len(line.path)
        for path, place in compiled.document.places.items():
            if path[:size] == line.path and len(path) > size:
                places[".".join(["steps", line.id, *map(str, path[size:])])] = place
    for item in said:
        if item.typed and not item.preset:
            head = item.key.partition(".")[0]
            places[item.key if compiled.line(head) is None else f"steps.{item.key}"] = COMMAND_LINE
    return places


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    """In the order of the files, the command line last; of several about one value, the first found."""
    first: dict[object, Problem] = {}
    for problem in problems:
        told = problem.key is None or problem.place in (None, COMMAND_LINE)
        first.setdefault(problem if told else (problem.place, problem.key), problem)
    return sorted(first.values(), key=_position)


def _position(problem: Problem) -> tuple[bool, str, int, int]:
    place = problem.place or COMMAND_LINE
    return (place == COMMAND_LINE, place.file, place.line or 0, place.column or 0)
