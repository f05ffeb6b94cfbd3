"""The process of one job, or of what is done for several."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.secrets import redact_text

OUTPUT = "terminal.log"
"""In the job's folder: what it and the libraries would have told on a terminal, a crash included."""

_LONGEST = 4000
"""Characters of what is told: less than a pipe holds, so that nobody has to wait for it to be read."""


def main(
    work: Callable[[], object],
    folder: str,
    sweep: Connection,
    cwd: str,
    environment: Mapping[str, str],
) -> None:
    """Do the work of a job, say, whose manifest says how it ended. `sweep` is told, in words, what it raised.

    A word from there, or the end of the other side, asks the job to end. This process is forked from one
    that serves many jobs: where it is, and its environment, are its own job's.
    """
    # A signal to all that the terminal started is for the sweep, which then asks each job once.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_when_asked, args=(sweep,), daemon=True).start()
    _write_to(Path(folder) / OUTPUT)
    os.environ.clear()
    os.environ.update(environment)
    try:
        os.chdir(cwd)
        work()
    except BaseException as error:
        why = redact_text(str(error) or type(error).__name__)
        sweep.send_bytes(why[:_LONGEST].encode(errors="replace"))


def redact_output(folder: Path) -> None:
    """Take secrets out of what a job that is over has told: libraries print what they like."""
    with suppress(OSError):
        said = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
        clean = redact_text(said)
        if clean != said:
            (folder / OUTPUT).write_text(clean, encoding="utf-8")


def _end_when_asked(sweep: Connection) -> None:
    """End in order; also when the sweep was killed, so that a later one does not meet this job."""
    sweep.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _write_to(file: Path) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, sys.stdout.fileno())
    os.dup2(handle, sys.stderr.fileno())
    os.close(handle)
    faulthandler.enable()
