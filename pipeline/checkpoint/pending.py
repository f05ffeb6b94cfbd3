"""Folders that a recipe writes itself, and that are not there yet, or not those, while it is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.blueprint import Adapter, Folder, State


def pending_folder(
    reference: str, kind: Literal["model", "adapter"], state: State
) -> Folder | None:
    """The folder that an earlier step writes, if a reference means one."""
    path = Path(reference).expanduser().absolute()
    return next((f for f in state.folders if f.kind == kind and f.path.absolute() == path), None)


def is_pending(adapter: Adapter, state: State) -> bool:
    """Whether an earlier step of the recipe writes this adapter."""
    return pending_folder(adapter.path, "adapter", state) is not None
