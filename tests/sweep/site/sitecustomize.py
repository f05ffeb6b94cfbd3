"""Python imports this at its start in every process of a test that has this folder on its path."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pipeline.steps

pipeline.steps.__path__.append(str(Path(__file__).parent / "steps"))

SLOW_DISK = "SLOW_DISK"
"""Seconds that each file takes to be on disk, so that a test can come between two of them."""

if SLOW_DISK in os.environ:
    fsync, seconds = os.fsync, float(os.environ[SLOW_DISK])

    def slowly(handle: int) -> None:
        time.sleep(seconds)
        fsync(handle)

    os.fsync = slowly
