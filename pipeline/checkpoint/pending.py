"""Folders that a recipe writes itself, and that are not there yet, or not those, while it is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.blueprint import Adapter, Folder, State


def pending_folder(
    reference: str, kind: Literal["model", "adapter"] | None, state: State
) -> Folder | None:
    """The folder, of any kind for None, that an earlier step writes, if a reference means one.

    However the two are spelled: a relative and an absolute path may be the same folder.
    """
    path = _real(Path(reference))
    known = (folder for folder in state.folders if kind in (None, folder.kind))
    return next((folder for folder in known if _real(folder.path) == path), None)


def _real(path: Path) -> Path:
    return path.expanduser().resolve()


def is_pending(adapter: Adapter, state: State) -> bool:
    """Whether an earlier step of the recipe writes this adapter."""
    return pending_folder(adapter.path, "adapter", state) is not None
