"""Why a blueprint is not streamed directly."""

from __future__ import annotations


class NotDirectError(Exception):
    """The reason, for a person, why the direct path does not do this."""
