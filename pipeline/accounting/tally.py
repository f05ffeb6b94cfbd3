"""How many tensors of the output come about in which way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.accounting.layout import Tensor

WAYS = ("merged", "through nf4", "through fp4", "through int8", "dequantized", "cast", "copied")
"""From most to least that happens to a tensor."""


def tally(tensors: Iterable[Tensor]) -> Mapping[str, int]:
    """Counts by `WAYS`, without those that no tensor goes.

    A merged tensor that is also dequantized, or taken through 4 or 8 bits, counts for both.
    """
    counts: Counter[str] = Counter()
    for tensor in tensors:
        ways = []
        if tensor.deltas:
            ways.append("merged")
        if tensor.through:
            ways.append(f"through {tensor.through.kind}")
        if tensor.packed:
            ways.append("dequantized")
        counts.update(ways or ["copied" if tensor.copied else "cast"])
    return {way: counts[way] for way in WAYS if counts[way]}
