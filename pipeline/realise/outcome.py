"""What a merge changed, told in the same words by both realisers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pipeline.blueprint import Adapter
from pipeline.errors import MergeError


def check_changed(
    claimed: Sequence[str], unchanged: Collection[str], adapters: Iterable[Adapter]
) -> None:
    """Raise MergeError when no module that the adapters claim has other bits than before."""
    if len(unchanged) == len(claimed):
        raise MergeError(
            "the merge changes no tensor of the base",
            where=", ".join(adapter.path for adapter in adapters),
            fix="the adapter is untrained (its deltas are zero), or too small for the base's dtype",
        )


def facts(claimed: int, unchanged: int) -> dict[str, int]:
    """The figures of a merge, for the manifest."""
    return {"modules_merged": claimed, "modules_changed": claimed - unchanged}


def unchanged_text(unchanged: Sequence[str], claimed: int) -> str:
    """A warning about modules that an adapter targets and that stayed as they were."""
    return (
        f"the merge left {len(unchanged)} of {claimed} targeted modules as they were, the first is "
        f"{unchanged[0]}: their deltas are zero or vanish in the base's dtype"
    )
