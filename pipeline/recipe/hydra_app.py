"""Let Hydra run a recipe: one job or a grid of them, with its launchers and callbacks, or show it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.types import RunMode
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
    """A recipe file and what the command line says about it. Travels to the processes of a launcher."""

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


def multirun(request: Request, task: Task) -> list[Any]:
    """Run every job of a grid, and return what `task` returned for each, in their order.

    With a sweeper that chooses its jobs itself, nothing is returned.
    """
    asked = request.read(multirun=True)
    with _hydra(asked) as hydra:
        overrides = [*asked.overrides, "hydra.mode=MULTIRUN"]
        done = hydra.multirun(PRIMARY, task, overrides)
    batches = done if isinstance(done, list) else []
    return [job.return_value for batch in batches for job in batch if isinstance(job, JobReturn)]


def grid(request: Request) -> list[list[str]]:
    """The overrides of each job that a multirun will run, and none if its sweeper decides on the way."""
    asked = request.read(multirun=True)
    hydras = [item.text for item in asked.said if item.key.startswith(("hydra.", "hydra/"))]
    tasks = [item.text for item in asked.said if item.text not in hydras]
    with _as_problems(), composed(asked.loader, hydras) as config:
        folder = str(config.hydra.sweep.dir)
        if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            return []
    with _as_problems():
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(tasks), None)[
            0
        ]
    kept = [text for text in hydras if not text.startswith(("hydra.run.dir=", "hydra.mode="))]
    folder = folder.replace("'", "\\'")
    return [[*job, *kept, f"hydra.run.dir='{folder}/{number}'"] for number, job in enumerate(jobs)]


def sweep_dir(request: Request) -> Path:
    """The folder of a multirun."""
    asked = request.read(multirun=True)
    hydras = [item.text for item in asked.said if item.key.startswith(("hydra.", "hydra/"))]
    with _as_problems(), composed(asked.loader, hydras) as config:
        return Path(config.hydra.sweep.dir)


def recipe_of(config: DictConfig, request: Request) -> Recipe:
    """Within a job: the recipe that Hydra composed for it."""
    job = HydraConfig.get()
    overrides = [*job.overrides.task]
    asked = loading.read(request.path, overrides, request.config_dir).require_sound()
    many = job.mode == RunMode.MULTIRUN
    typed = [as_typed(text) for text in overrides] if many else request.overrides
    return loading.from_config(config, asked, typed)


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


def as_typed(text: str) -> str:
    """From Hydra's form back to the one that people write."""
    if text.startswith("~"):
        return f"~{text[1:].removesuffix('=null').removeprefix('steps.')}"
    key, equals, value = text.lstrip("+").partition("=")
    return f"{key.rpartition('@')[2].removeprefix('steps.')}{equals}{value}"
