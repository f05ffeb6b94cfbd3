"""Garbage is left alone while a run starts, and only then."""

from __future__ import annotations

import gc
from contextlib import suppress

from pipeline.memory import collecting_nothing


def test_garbage_is_looked_for_again_after_an_error() -> None:
    with suppress(ValueError), collecting_nothing():
        within = gc.isenabled()
        raise ValueError

    assert (within, gc.isenabled()) == (False, True)


def test_within_another_it_changes_nothing() -> None:
    with collecting_nothing():
        with collecting_nothing():
            pass
        assert not gc.isenabled()
