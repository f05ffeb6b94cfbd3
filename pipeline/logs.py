"""The log file of a run: everything that Mergeline and the libraries below it have to say.

During a run the terminal belongs to the run's own console. What libraries would print there goes
to the file, and their progress bars nowhere.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import cast

from pipeline.secrets import RedactingFormatter

FILE_NAME = "run.log"
"""In the run's folder."""

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_OUTSPOKEN = {
    "transformers": logging.INFO,
    "huggingface_hub": logging.INFO,
    "torch": logging.WARNING,
}
"""Libraries that, once imported, print past the root logger, and the level from which to keep them.

Loggers below `torch` have handlers of their own, so they must not begin to say more than usual.
"""

_NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""Read by the libraries when they are imported, and by processes that the run starts."""


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Send all log records to `path` while the context lasts, and none to the terminal.

    `mergeline` logs from DEBUG on, everything else from INFO on, Python warnings included. Each
    record is flushed, so that the file is complete when the run is killed; secrets are taken out.
    A file that exists is continued.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(RedactingFormatter(_FORMAT))
    with ExitStack() as stack:
        stack.callback(handler.close)
        stack.enter_context(_level(logging.getLogger(), logging.INFO))
        stack.enter_context(_level(logging.getLogger("mergeline"), logging.DEBUG))
        stack.enter_context(_handled_by(handler))
        stack.enter_context(quiet_libraries())
        yield


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep libraries off the terminal, also those that are imported within the context.

    Their records go to the handlers of the root logger, their warnings too, and their bars nowhere.
    """
    with ExitStack() as stack:
        # Without any handler at the root, logging would print warnings as a last resort.
        stack.enter_context(_handled_by(logging.NullHandler()))
        for name, level in _OUTSPOKEN.items():
            stack.enter_context(_routed_to_root(logging.getLogger(name), level))
        stack.enter_context(_environment(_NO_BARS))
        stack.enter_context(_no_bars_of_imported())
        logging.captureWarnings(True)
        stack.callback(logging.captureWarnings, False)
        yield


class _RunLog(logging.FileHandler):
    """A log file on a full disk is the least of a run's troubles: its own error is the one to show."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Routed(logging.Logger):
    """A library's logger during a run: what the library sets up for itself waits until the end."""

    waiting: list[logging.Handler]

    @property
    def propagate(self) -> bool:
        return True

    @propagate.setter
    def propagate(self, value: bool) -> None:
        pass

    def setLevel(self, level: int | str) -> None:
        pass

    def addHandler(self, hdlr: logging.Handler) -> None:
        self.waiting.append(hdlr)


@contextmanager
def _routed_to_root(logger: logging.Logger, level: int) -> Iterator[None]:
    if isinstance(logger, _Routed):
        yield
        return
    kind, handlers, level_before = type(logger), logger.handlers, logger.level
    logger.handlers = []
    logger.setLevel(level)
    routed = cast(_Routed, logger)
    routed.__class__ = _Routed
    routed.waiting = []
    try:
        yield
    finally:
        waiting = routed.__dict__.pop("waiting")
        logger.__class__ = kind
        logger.handlers = handlers + waiting
        logger.setLevel(level_before)


@contextmanager
def _handled_by(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def _level(logger: logging.Logger, level: int) -> Iterator[None]:
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _no_bars_of_imported() -> Iterator[None]:
    """Libraries that were imported earlier read no environment variables any more."""
    with ExitStack() as stack:
        hub = sys.modules.get("huggingface_hub.utils")
        if hub and not hub.are_progress_bars_disabled():
            hub.disable_progress_bars()
            stack.callback(hub.enable_progress_bars)
        transformers = sys.modules.get("transformers.utils.logging")
        if transformers and transformers.is_progress_bar_enabled():
            transformers.disable_progress_bar()
            stack.callback(transformers.enable_progress_bar)
        yield
