"""Folders that are complete and wait, under their hidden names, until a later step has judged them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.checkpoint.publish import publishing


class _NotPublished(Exception):
    """Thrown into `publishing`: what its journal holds finished stays for the same work to go on with."""


class Holding:
    """The folders of one run that wait. Their locks are held, so that no other run writes them."""

    def __init__(self, judged: Collection[Path] = ()) -> None:
        """`judged` are those that must wait; all others are published at once."""
        self._judged = frozenset(judged)
        self._held: dict[Path, tuple[Path, ExitStack]] = {}
        self._begun: dict[Path, tuple[Path, ExitStack]] = {}

    def begin(self, path: Path, *, overwrite: bool) -> Path:
        """The folder that `publishing` will give for this path, to write into before."""
        stack = ExitStack()
        folder = stack.enter_context(publishing(path, overwrite=overwrite))
        self._begun[path] = folder, stack
        return folder

    @contextmanager
    def publishing(self, path: Path, *, overwrite: bool) -> Iterator[Path]:
        """Like `publish.publishing`, but a folder that is to be judged waits for `publish`."""
        if path not in self._begun:
            self.begin(path, overwrite=overwrite)
        folder, begun = self._begun.pop(path)
        with begun as stack:
            yield folder
            if path in self._judged:
                self._held[path] = folder, stack.pop_all()

    def where(self, path: Path) -> Path:
        """Where the folder lies now: under its hidden name while it waits."""
        return self._held[path][0] if path in self._held else path

    def publish(self, path: Path) -> None:
        """Let a folder that waits have its name; others have it already."""
        if path in self._held:
            _, stack = self._held.pop(path)
            stack.close()

    def drop(self) -> None:
        """Give up all that still waits, or was only begun: nothing appears under its name."""
        for waiting in (self._held, self._begun):
            while waiting:
                _, (_, stack) = waiting.popitem()
                with suppress(_NotPublished), stack:
                    raise _NotPublished
