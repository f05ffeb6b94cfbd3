"""Let Hydra run a recipe, with its callbacks, or show it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.recipe import loading
from pipeline.recipe.compose import COMPOSING_ERRORS, composed
from pipeline.recipe.model import Recipe
from pipeline.recipe.source import PRIMARY
from pipeline.secrets import redact_text

Task = Callable[[DictConfig], Any]


@dataclass(frozen=True)
class Request:
    """A recipe file and what the command line says about it. Travels to the process of a job."""

    path: Path
    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None

    def load(self) -> tuple[Recipe, loading.Asked]:
        """The recipe for one run, and the same in Hydra's terms. Raises RecipeError."""
        return loading.load_asked(self.path.absolute(), self.overrides, self.config_dir)

    def read(self, *, multirun: bool = False) -> loading.Asked:
        """The request in Hydra's terms. Raises RecipeError when file or command line are wrong."""
        asked = loading.read(self.path, self.overrides, self.config_dir, multirun=multirun)
        return asked.require_sound()


def run(asked: loading.Asked, task: Task) -> Any:
    """Run one job, and return what `task` returned."""
    errors: list[Exception] = []

    def caught(config: DictConfig) -> Any:
        try:
            return task(config)
        except Exception as error:  # Hydra would print it in its own way before it raises it again
            errors.append(error)

    with _hydra(asked) as hydra:
        done: JobReturn = hydra.run(PRIMARY, caught, asked.overrides)
    if errors:
        raise errors[0]
    return done.return_value


def sweep_dir(request: Request) -> Path:
    """The folder of a sweep, as the command line or Hydra's configuration names it."""
    asked = request.read(multirun=True)
    hydras = [item.text for item in asked.said if item.key.startswith(("hydra.", "hydra/"))]
    with _as_problems(), composed(asked.loader, hydras) as config:
        return Path(config.hydra.sweep.dir)


def show_config(request: Request, kind: str, package: str | None, *, resolve: bool) -> None:
    """Print the composed config: `job`, `hydra` or `all` of it."""
    asked = request.read()
    with (
        _hydra(asked) as hydra,
        _as_problems(),
        composed(asked.loader, asked.overrides) as config,
    ):
        # On a copy: resolving in place would change what the run's fingerprint is taken from.
        whole = copy.deepcopy(config)
        OmegaConf.set_readonly(whole.hydra, None)
        if resolve:
            _resolve(whole, request)
        shown: Any = hydra.get_sanitized_cfg(whole, kind)
        if package and package != "_global_":
            shown = OmegaConf.select(shown, package)
            if shown is None:
                raise RecipeError(
                    [Problem(f"there is no {package!r}", None, "--package", COMMAND_LINE)]
                )
            print(f"# @package {package}")
    text = OmegaConf.to_yaml(shown) if OmegaConf.is_config(shown) else f"{shown}\n"
    print(redact_text(text), end="")


def _resolve(config: DictConfig, request: Request) -> None:
    try:
        OmegaConf.resolve(config)
    except COMPOSING_ERRORS:
        # Loading knows where it is wrong and what to do, and finds all the rest.
        request.load()
        raise


def show_info(request: Request, what: str) -> None:
    """Print what Hydra knows: `defaults-tree`, `searchpath`, `plugins`, ..."""
    asked = request.read()
    # Hydra logs it to standard output, where it can neither be redacted nor stop when nobody reads on.
    said = io.StringIO()
    with _hydra(asked) as hydra, _as_problems(), redirect_stdout(said):
        hydra.show_info(what, PRIMARY, asked.overrides)
    print(redact_text(said.getvalue()), end="")


@contextmanager
def _hydra(asked: loading.Asked) -> Iterator[Hydra]:
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra("mergeline", asked.loader)
        GlobalHydra.instance().initialize(hydra)
        yield hydra
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _as_problems() -> Iterator[None]:
    try:
        yield
    except COMPOSING_ERRORS as error:
        raise RecipeError([loading.from_hydra(error, COMMAND_LINE)]) from error
