"""What the jobs of a running sweep are to do, told by files in its folder, which every machine can see."""

from __future__ import annotations

import uuid
from enum import Enum, auto
from pathlib import Path

_RUNNING = ".running-"
_KILL = ".kill-"


class Order(Enum):
    """From the mildest to the hardest."""

    GO_ON = auto()
    END = auto()
    """In order, as after Ctrl-C."""
    KILL = auto()


class Orders:
    """The orders of one sweep; travels to its jobs. Written by whoever runs the sweep, read by its jobs."""

    def __init__(self, folder: Path) -> None:
        name = uuid.uuid4().hex
        self._running = folder.absolute() / f"{_RUNNING}{name}"
        self._kill = folder.absolute() / f"{_KILL}{name}"

    def begin(self) -> None:
        """Let jobs run. Those of earlier sweeps in this folder, whose end nobody told them of, end now."""
        self.clear()
        self._running.touch()

    def end(self) -> None:
        """Ask all jobs to end, also those that begin later."""
        self._running.unlink(missing_ok=True)

    def kill(self) -> None:
        """End them at once."""
        self._kill.touch()
        self.end()

    def clear(self) -> None:
        """Leave no orders, which means: end."""
        for name in (_RUNNING, _KILL):
            for file in self._running.parent.glob(f"{name}*"):
                file.unlink(missing_ok=True)

    def read(self) -> Order:
        if self._running.exists():
            return Order.GO_ON
        return Order.KILL if self._kill.exists() else Order.END
