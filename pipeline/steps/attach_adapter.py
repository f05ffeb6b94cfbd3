"""`attach_adapter`: put a trained adapter on the base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from pipeline.accounting.claims import check_claims
from pipeline.blueprint import Adapter, Blueprint, State
from pipeline.checkpoint.adapter import AdapterCheckpoint, inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.fit import doubts_about_base
from pipeline.checkpoint.pending import is_pending
from pipeline.errors import InputError, MergeError, Refused
from pipeline.steps import step, step_settings


@step_settings
class AttachAdapterSettings:
    path: str
    """Folder of the adapter, or its id on the Hugging Face Hub."""
    revision: str | None = None
    """Branch, tag or commit of an adapter on the Hub."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", examples=["default"])] | None = None
    """What to call it within the model; by default `default`, then `default_2`, ..."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Multiplies the adapter's delta. Only for adapters that are a delta: LoRA, LoHa, LoKr."""


@step(needs=["base"], makes=["adapter"])
def attach_adapter(settings: AttachAdapterSettings, state: State) -> State:
    """Attach an adapter; attach more than one and all of them are active together."""
    blueprint = state.blueprint
    assert blueprint is not None
    names = [adapter.name for adapter in blueprint.all_adapters]
    name = settings.name or ("default" if not names else f"default_{len(names) + 1}")
    adapter = Adapter(settings.path, name=name, revision=settings.revision, weight=settings.weight)
    planned = state.with_blueprint(replace(blueprint, adapters=(*blueprint.adapters, adapter)))
    if name in names:
        raise Refused(
            f"an adapter named {name!r} is attached already",
            fix="give this one another `name`",
            key="name",
            otherwise=planned,
        )
    if is_pending(adapter, state):
        return planned
    try:
        found = inspect_adapter(adapter)
        found.check_weight(settings.weight)
        found.check_beside([*_sound(blueprint.adapters, state)])
        warnings = [*found.warnings, *_check_against_base(found, blueprint)]
    except (InputError, MergeError) as error:
        raise Refused(
            f"{error.where}: {error.what}", fix=error.fix, key="path", otherwise=planned
        ) from error
    pinned = replace(adapter, revision=found.source.commit or adapter.revision)
    after = state.with_blueprint(replace(blueprint, adapters=(*blueprint.adapters, pinned)))
    for warning in warnings:
        after = after.with_warning(warning)
    return after


def _sound(adapters: Iterable[Adapter], state: State) -> Iterator[AdapterCheckpoint]:
    """Those that can be inspected; the steps that attach the others have told of them."""
    for adapter in adapters:
        if not is_pending(adapter, state):
            with suppress(InputError):
                yield inspect_adapter(adapter)


def _check_against_base(adapter: AdapterCheckpoint, blueprint: Blueprint) -> list[str]:
    """Warnings, or an InputError or MergeError where the two cannot fit."""
    try:
        base = inspect_base(blueprint.base)
    except InputError:
        return []  # `load_base` has told of it
    check_claims(adapter, base)
    return doubts_about_base(adapter, blueprint.base, base)
