"""A saved folder's predictions, from a process of its own that has never heard of peft."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pipeline
from pipeline.checkpoint.beside import target_of
from pipeline.errors import VerificationError
from pipeline.proof.logits import Answers, Request

log = logging.getLogger("mergeline")


def ask(request: Request) -> Answers:
    """Load the folder in a new Python process and collect its predictions.

    The process has no network, so the folder must serve alone. The answers lie in the request's `output`, and
    are gone with it. Raises VerificationError when the folder does not load or run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "request.json"
        file.write_text(request.to_json(), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "pipeline.proof.logits", str(file)]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    for line in done.stderr.splitlines():
        log.debug("clean process: %s", line)
    if done.returncode != 0:
        raise VerificationError(
            f"the saved model does not work in a clean process: {_reason(done)}",
            where=target_of(Path(request.base.model)),
            fix="the whole message is in the run's log",
        )
    return Answers.read(Path(request.output))


def _environment() -> dict[str, str]:
    """This process's, without the network, and with this package importable from anywhere."""
    root = str(Path(pipeline.__file__).parent.parent)
    path = [p for p in (os.environ.get("PYTHONPATH"), root) if p]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        killed = " (out of memory?)" if done.returncode == -9 else ""
        return f"it was ended by signal {-done.returncode}{killed}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"
