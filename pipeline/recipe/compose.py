"""Hydra's part: the search path, the resolvers that give a run its folder, and composing."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from pipeline.recipe.source import PRIMARY, RecipeSource
from pipeline.resources import conf_dir


def search_path(recipe: Path, config_dir: Path | None = None) -> ConfigSearchPathImpl:
    """Where Hydra looks: the recipe, our `conf/`, then a folder of the user's."""
    _prepare()
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    path.append("recipe", f"recipe://{recipe.resolve()}")
    path.append("main", f"file://{conf_dir()}")
    if config_dir is not None:
        path.append("command-line", f"file://{config_dir.resolve()}")
    path.append("schema", "structured://")
    return path


class Loader(ConfigLoaderImpl):
    """Hydra's loader of configs for one recipe file.

    Composing takes a tenth of a second, and the check of a recipe asks for the same config as the run that
    follows: it is composed for the one, and a copy kept for the other.
    """

    def __init__(self, recipe: Path, config_dir: Path | None = None) -> None:
        super().__init__(search_path(recipe, config_dir))
        self._composed: dict[tuple[object, ...], DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        asked = (config_name, *overrides, run_mode, from_shell, validate_sweep_overrides)
        if asked in self._composed:
            return self._composed.pop(asked)
        config = super().load_configuration(
            config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )
        self._composed[asked] = copy.deepcopy(config)
        return config


COMPOSING_ERRORS = (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)
"""What Hydra raises when what it composes is wrong; for a wrong list of defaults, a plain ValueError."""


@contextmanager
def composed(loader: Loader, overrides: Sequence[str]) -> Iterator[DictConfig]:
    """The composed config of one run, with Hydra's own settings in `hydra`, to be resolved inside."""
    config = loader.load_configuration(PRIMARY, list(overrides), RunMode.RUN)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield config
    finally:
        HydraConfig.instance().cfg = before


def fingerprint(config: DictConfig) -> str:
    """SHA-256 (hex) over a composed recipe, wherever its run's folder lies and whoever writes its weights."""
    said = [str(key) for key in config if key not in ("hydra", "workers")]
    clean = OmegaConf.masked_copy(config, said)
    with flag_override(clean, ["readonly", "struct"], False):
        clean.run, clean.branch = {"dir": "RUN"}, {"name": "BRANCH"}
    try:
        data = OmegaConf.to_container(clean, resolve=True)
    except Exception:  # the recipe is wrong, which is found and said elsewhere
        data = OmegaConf.to_container(clean, resolve=False)
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _prepare() -> None:
    """Make Hydra know what is ours; once for a process."""
    version.setbase("1.3")
    Plugins.instance().register(RecipeSource)
    setup_globals()
    JobRuntime.instance().set("name", "mergeline")
    resolvers: dict[str, Any] = {
        "mergeline.started": _started,
        "mergeline.fingerprint": lambda *, _root_: fingerprint(_root_)[:8],
        "mergeline.run_dir": _run_dir,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


@functools.cache
def _started() -> str:
    """When this process began to read recipes. Fixed, so that a folder's name never changes midway."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _run_dir() -> str:
    """The folder of the run that is being composed or run, as Hydra will make it."""
    hydra = HydraConfig.get()
    folder = str(hydra.run.dir)
    return os.path.abspath(folder) if hydra.job.chdir else folder
