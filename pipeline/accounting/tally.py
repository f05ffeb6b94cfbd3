"""How many tensors of the output come about in which way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.accounting.layout import Tensor


def tally(tensors: Iterable[Tensor]) -> Mapping[str, int]:
    """Counts by what happens: `merged`, `through nf4`, `cast`, `made`, `copied`.

    A merged tensor that is also taken through 4 bits counts for both.
    """
    counts: Counter[str] = Counter()
    for tensor in tensors:
        ways = []
        if tensor.deltas:
            ways.append("merged")
        if tensor.through:
            ways.append(f"through {tensor.through.kind}")
        if tensor.base is None:
            ways.append("made")
        counts.update(ways or ["copied" if tensor.copied else "cast"])
    return dict(counts)
