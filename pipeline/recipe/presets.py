"""The presets that are shipped with a step."""

from __future__ import annotations

from pathlib import Path

from pipeline.resources import conf_dir


def shipped_presets(step: str) -> list[str]:
    """Names of the files in `conf/step/<step>/`."""
    return sorted(path.stem for path in preset_folder(step).glob("*.yaml"))


def preset_folder(step: str) -> Path:
    """Where the shipped presets of a step lie; the folder is there only if it has any."""
    return conf_dir() / "step" / step


def about_preset(step: str, preset: str) -> str:
    """The first comment of a preset's file."""
    first = (preset_folder(step) / f"{preset}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
