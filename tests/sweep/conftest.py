from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended some seconds later. What nobody has reaped yet has ended."""
    left = processes
    deadline = time.monotonic() + 10
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    return left


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start `mergeline` in an empty folder, with the step `misbehave`."""
    (tmp_path / "r.yaml").write_text("steps:\n  - misbehave\n")

    def starting(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT / 'tests/sweep/site'}{os.pathsep}{ROOT}",
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return starting


@pytest.fixture
def mergeline(start: Start) -> Call:
    """Run `mergeline` to its end."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        process = start(*words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return call
