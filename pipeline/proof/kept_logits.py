"""Logits on disk, so that memory holds those of one prompt, however many prompts there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class KeptLogits:
    """Those of each prompt (positions, classes), read when their turn comes; may be gone through again."""

    folder: Path
    count: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        from safetensors.torch import load_file

        for number in range(self.count):
            yield load_file(_file(self.folder, number))["logits"]


def keep(logits: Iterable[torch.Tensor], folder: Path) -> KeptLogits:
    """Write the logits of each prompt into a folder, which is made, as they come."""
    from safetensors.torch import save_file

    folder.mkdir()
    count = 0
    for count, rows in enumerate(logits, start=1):
        save_file({"logits": rows}, _file(folder, count - 1))
    return KeptLogits(folder, count)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"
