"""Which realiser writes a model: stream where that is exact, live for the rest, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.accounting.direct import Work, direct_work
from pipeline.accounting.modular import why_not_modular
from pipeline.accounting.not_direct import NotDirectError
from pipeline.accounting.tally import tally
from pipeline.blueprint import Blueprint, Engine, SavedDtype
from pipeline.errors import InputError


@dataclass(frozen=True)
class Choice:
    """The realiser for one `save`."""

    engine: Literal["stream", "live"]
    reason: str
    """In words for the plan."""
    work: Work | None = None
    """What a stream will do, where it knows that without torch: each tensor by itself."""


def choose(
    blueprint: Blueprint, dtype: SavedDtype, wanted: Engine, *, fetch: bool = False
) -> Choice:
    """The realiser for a blueprint that is saved in `dtype`, from configs and headers alone.

    With `fetch`, files of the Hub that a stream will read are downloaded.
    """
    if wanted == "live":
        return Choice("live", "asked for")
    try:
        return _streamed(blueprint, dtype, fetch)
    except InputError:
        return Choice("live", "the base or an adapter is not there yet")


def _streamed(blueprint: Blueprint, dtype: SavedDtype, fetch: bool) -> Choice:
    try:
        work = direct_work(blueprint, dtype, fetch=fetch)
    except NotDirectError as error:
        why = why_not_modular(blueprint)
        if why is not None:
            return Choice("live", why)
        return Choice("stream", f"with the help of transformers and PEFT, because {error}")
    return Choice("stream", f"tensor by tensor: {_counts(work)}", work)


def _counts(work: Work) -> str:
    return ", ".join(f"{count} {way}" for way, count in tally(work.tensors).items())
