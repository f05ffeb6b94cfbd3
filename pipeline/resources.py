"""Where the files that travel with Mergeline lie: `conf/` and `recipes/`.

In a checkout they stand at the top of the repository; in a wheel, inside the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name


def conf_dir() -> Path:
    """Hydra's configuration: `config.yaml`, and the presets as `step/<step>/<preset>.yaml`."""
    return _folder("conf")


def recipes_dir() -> Path:
    """The shipped recipes, and the JSON Schema beside them."""
    return _folder("recipes")
