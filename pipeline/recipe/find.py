"""Which file a RECIPE on the command line means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.resources import recipes_dir
from pipeline.steps import nearest

_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Found:
    """A recipe that can be named."""

    name: str
    path: Path
    about: str
    """What its first comment says it is for."""
    shipped: bool


def find_recipe(reference: str) -> Path:
    """The file that `reference` means: a path to a file anywhere, a name in `./recipes`, or a shipped name.

    A recipe in `./recipes` comes before a shipped one of the same name. Raises RecipeError.
    """
    as_path = Path(reference).expanduser()
    if _is_path(reference):
        if as_path.is_file():
            return as_path
        raise RecipeError([_not_a_file(reference, as_path)])
    known = {found.name: found.path for found in list_recipes()}
    if reference in known:
        return known[reference]
    files = (Path(f"{reference}{ending}") for ending in ("", *_ENDINGS))
    file = next((file for file in files if file.is_file()), None)
    fix = f"for the file, write `./{file}`" if file else nearest(reference, known)
    fix = fix or f"`mergeline recipes` lists them ({', '.join(known)})"
    raise RecipeError([Problem(f"there is no recipe {reference!r}", fix, place=COMMAND_LINE)])


def list_recipes() -> list[Found]:
    """Every recipe that has a name, those in `./recipes` first."""
    own, shipped = Path("recipes"), recipes_dir()
    same = own.is_dir() and own.resolve() == shipped.resolve()
    found: dict[str, Found] = {}
    for folder in [shipped] if same else [own, shipped]:
        for path in sorted(folder.glob("*")):
            if path.suffix in _ENDINGS and path.is_file() and path.stem not in found:
                about = _about(path)
                found[path.stem] = Found(path.stem, _near(path), about, folder == shipped)
    return list(found.values())


def _is_path(reference: str) -> bool:
    return os.sep in reference or "/" in reference or reference.endswith(_ENDINGS)


def _not_a_file(reference: str, path: Path) -> Problem:
    if path.is_dir():
        return Problem(f"{reference} is a folder", "name the recipe's file", place=COMMAND_LINE)
    if reference == path.name and path.stem in {recipe.name for recipe in list_recipes()}:
        fix = f"for the recipe of that name, write `{path.stem}`"
    else:
        beside = [str(p) for p in path.parent.glob("*") if p.suffix in _ENDINGS]
        fix = nearest(str(path), beside) or "`mergeline recipes` lists the recipes that have a name"
    return Problem(f"there is no file {reference}", fix, place=COMMAND_LINE)


def _about(path: Path) -> str:
    """The text after `name - ` in the first comment of a recipe."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.startswith("#"):
                    break
                head, dash, text = line.strip("# \n").partition(" - ")
                if dash and Path(head).stem == path.stem:
                    return text.strip()
    except OSError:
        pass
    return ""


def _near(path: Path) -> Path:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)
