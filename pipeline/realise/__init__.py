"""Realisers turn a blueprint into a model: in memory (`live`) or in a folder (`write_model`)."""

from __future__ import annotations

from pipeline.realise.write import Written, write_model

__all__ = ["Written", "write_model"]
