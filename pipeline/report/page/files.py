"""What went into a run and what came out, by the folder or repository in which it lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from pipeline.manifest import FileRecord, Manifest


@dataclass(frozen=True)
class Files:
    """Files of one folder or repository."""

    place: str
    role: str
    bytes: int
    share: float
    """Of the largest group on the page."""
    files: tuple[FileRecord, ...]


def files_of(record: Manifest) -> tuple[tuple[Files, ...], tuple[Files, ...]]:
    """The inputs and the outputs of a run."""
    inputs, outputs = _groups(record.inputs), _groups(record.outputs)
    largest = max((_bytes(files) for files in (*inputs.values(), *outputs.values())), default=0)
    return _files(inputs, largest, _roles(record)), _files(outputs, largest, {})


def _groups(files: Iterable[FileRecord]) -> dict[str, list[FileRecord]]:
    """Files by the folder or repository in which they lie; one alone stands for itself."""
    found: dict[str, list[FileRecord]] = {}
    for file in files:
        place = (
            f"{file.repo} at {(file.commit or '?')[:12]}"
            if file.repo
            else f"{PurePath(file.path).parent}/"
        )
        found.setdefault("" if place == "./" else place, []).append(file)
    return found


def _files(
    groups: Mapping[str, list[FileRecord]], largest: int, roles: Mapping[str, str]
) -> tuple[Files, ...]:
    return tuple(
        Files(
            place or "the run's folder",
            next((role for ref, role in roles.items() if _is_place(ref, place)), ""),
            _bytes(files),
            _bytes(files) / largest if largest else 0,
            tuple(files),
        )
        for place, files in groups.items()
    )


def _bytes(files: Iterable[FileRecord]) -> int:
    return sum(file.bytes for file in files)


def _roles(record: Manifest) -> dict[str, str]:
    """What the folders and repositories that steps name are to the run."""
    said = {"load_base": ("model", "base"), "attach_adapter": ("path", "adapter")}
    return {
        str(step.settings[said[step.step][0]]): said[step.step][1]
        for step in record.steps
        if step.step in said and said[step.step][0] in step.settings
    }


def _is_place(reference: str, place: str) -> bool:
    """Whether a setting, which may be relative to where the run was started, names this place."""
    folder = f"/{reference.removeprefix('./').strip('/')}/"
    return place.startswith(f"{reference} at ") or f"/{place.lstrip('/')}".endswith(folder)
