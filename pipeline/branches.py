"""What a recipe's steps describe where it parts into branches: each goes on from where it left the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from pipeline.blueprint import State
from pipeline.recipe.model import StepCall

Branch = tuple[str, ...]
"""One name for each `for_each` on the way; that of a shared beginning begins the names of its branches."""


def latest(states: Mapping[Branch, State], branch: Branch) -> State:
    """The state that a branch has come to: its own, or where it left the others."""
    found = (states[branch[:n]] for n in range(len(branch), -1, -1) if branch[:n] in states)
    return next(found, State())


def walk(
    calls: Sequence[StepCall], states: Sequence[State]
) -> Iterator[tuple[StepCall, State, State]]:
    """Each step with the state before and after it."""
    last: dict[Branch, State] = {}
    for call, state in zip(calls, states, strict=True):
        yield call, latest(last, call.branch), state
        last[call.branch] = state


def belongs(branch: Branch, to: Branch) -> bool:
    """Whether a branch is one of those that another parts into, or that one itself."""
    return branch[: len(to)] == to


def going_on(calls: Sequence[StepCall], refused: Collection[Branch]) -> list[StepCall]:
    """The steps that are left when branches are not taken; none when nothing but a beginning would be."""
    branches = {call.branch for call in calls}
    ends = {one for one in branches if not any(belongs(b, one) for b in branches - {one})}
    sound = [end for end in ends if not any(belongs(end, to=one) for one in refused)]
    return [call for call in calls if any(belongs(end, to=call.branch) for end in sound)]
