"""Garbage is left alone while a run starts, and only then."""

from __future__ import annotations

import gc

import pytest

from pipeline.memory import collecting_nothing


def test_garbage_is_looked_for_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="wrong"), collecting_nothing():
        assert not gc.isenabled()
        raise ValueError("wrong")

    assert gc.isenabled()
