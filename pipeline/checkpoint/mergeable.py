"""Adapters that cannot be folded into weights, found out before anything is run."""

from __future__ import annotations

from pipeline.blueprint import Adapter, State
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.pending import is_pending
from pipeline.errors import InputError, Refused


def refuse_unmergeable(adapter: Adapter, before: State, after: State) -> None:
    """Raise Refused when a step cannot merge an adapter; planning then goes on with `after`."""
    if is_pending(adapter, before):
        return
    try:
        found = inspect_adapter(adapter)
    except InputError:
        return  # `attach_adapter` has told of it
    reason = found.why_not_mergeable()
    if reason is not None:
        why, instead = reason
        raise Refused(
            f"{adapter.path} is {found.peft_type} and cannot be merged: {why}",
            fix=f"remove this step; {instead}",
            otherwise=after,
        )
