"""What the ranges of one tensor have in common: factors, scales. Made once, and kept while it is of use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class Shared:
    """The latest things that threads made for one another, up to so many bytes, one at least."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._found: dict[Hashable, tuple[Future[Any], int]] = {}
        self._lock = Lock()

    def get(self, key: Hashable, bytes_: int, make: Callable[[], T]) -> T:
        """What `make` gave for the key; it is called once, however many threads ask at a time.

        What it raises, all of them get, and who asks later has it called again.
        """
        with self._lock:
            found = self._found.pop(key, None)
            mine = found is None
            made, _ = self._found[key] = found or (Future(), bytes_)
            if mine:
                self._bytes += bytes_
                self._forget()
        if mine:
            try:
                made.set_result(make())
            except BaseException as error:
                made.set_exception(error)
                with self._lock:
                    if self._found.pop(key, None):
                        self._bytes -= bytes_
        value: T = made.result()
        return value

    def _forget(self) -> None:
        while self._bytes > self._most and len(self._found) > 1:
            _, bytes_ = self._found.pop(next(iter(self._found)))
            self._bytes -= bytes_
