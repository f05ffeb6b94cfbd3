"""The process of one job."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline import jobs
from pipeline.recipe.hydra_app import Request

OUTPUT = "terminal.log"
"""In the job's folder: what it would have told on a terminal, a crash of a library included."""

_LONGEST = 4000
"""Characters of an answer: less than a pipe holds, so that nobody has to wait for it to be read."""


def main(request: Request, folder: str, answer: Connection) -> None:
    """Run a job; its manifest says how it ended. `answer` gets what kept it from having one, in words."""
    # Ctrl-C on the terminal goes to the sweep alone, which then asks each job once.
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    _write_to(Path(folder) / OUTPUT)
    try:
        jobs.run_one(request)
    except BaseException as error:
        why = str(error) or type(error).__name__
        answer.send_bytes(why[:_LONGEST].encode(errors="replace"))


def _end_with_the_sweep() -> None:
    """A sweep that was killed leaves no job behind, which a later sweep would meet."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    sweep.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _write_to(file: Path) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, sys.stdout.fileno())
    os.dup2(handle, sys.stderr.fileno())
    os.close(handle)
    faulthandler.enable()
