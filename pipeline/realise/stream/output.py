"""One model that a stream writes, on its own or in one pass over the base with others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.accounting.layout import Shard, Tensor
from pipeline.checkpoint.journal import Finished

Make = Callable[[Sequence[Tensor]], Iterable[tuple[str, memoryview, bool]]]
"""Makes the tensors that come from no file, in any order: key, bytes, and whether a merge changed it."""


@dataclass(eq=False)
class Output:
    """Files to be written into a folder, and what became of them."""

    folder: Path
    shards: Sequence[Shard]
    safe: bool
    """Whether a merged value that is NaN or infinite is an error whatever brought it in."""
    finished: Callable[[Finished], None]
    """Told of each file once it is complete, hashed and on disk, one after the other, from another thread."""
    make: Make | None = None
    """Asked, in the thread of the caller, for the tensors that have no base."""
    changed: set[str] = field(default_factory=set)
    """Keys of the tensors that a merge changed."""
    error: Exception | None = None
    """Why it was given up. Other outputs of the same pass go on."""
