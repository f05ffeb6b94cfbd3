"""The part of Hydra's configuration that is computed: the compiled recipe, and the defaults of each step."""

from __future__ import annotations

from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from pipeline.recipe.compile import NO_PRESET, Compiled, compile_recipe
from pipeline.recipe.defaults import defaults_of
from pipeline.recipe.yaml_file import read_yaml
from pipeline.steps import all_steps, find_step

PRIMARY = "recipe"
"""Name of the primary config."""


def read_recipe(path: Path) -> Compiled:
    """Read and compile a recipe file."""
    return compile_recipe(read_yaml(path), path.stem)


class RecipeSource(ConfigSource):
    """Serves `recipe://<path of a recipe file>` to Hydra."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider=provider, path=path)
        self._compiled: Compiled | None = None

    @staticmethod
    def scheme() -> str:
        return "recipe"

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml")
        if name == PRIMARY:
            if self._compiled is None:
                self._compiled = read_recipe(Path(self.path))
            data = self._compiled.primary()
        elif self.is_config(name) and (step := find_step(name.split("/")[1])):
            data = defaults_of(step)
        else:
            raise ConfigLoadError(f"Config not found : {config_path}")
        where = f"{self.scheme()}://{self.path}"
        header: dict[str, str | None] = {"package": None}
        return ConfigResult(self.provider, where, OmegaConf.create(data), header)

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        parts = [part for part in config_path.split("/") if part]
        if len(parts) == 2:
            return parts[0] == "step" and find_step(parts[1]) is not None
        return parts in ([], ["step"])

    def is_config(self, config_path: str) -> bool:
        name = config_path.removesuffix(".yaml")
        group, _, last = name.rpartition("/")
        return name == PRIMARY or (
            last == NO_PRESET and group.count("/") == 1 and self.is_group(group)
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        parts = [part for part in config_path.split("/") if part]
        groups = {0: ["step"], 1: list(all_steps())}.get(len(parts), [])
        configs = {0: [PRIMARY], 2: [NO_PRESET]}.get(len(parts), [])
        if results_filter == ObjectType.GROUP:
            return groups
        return configs if results_filter == ObjectType.CONFIG else sorted([*groups, *configs])
