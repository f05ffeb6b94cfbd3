"""What a stream holds in memory at a time, in bytes: for the stream itself and for the plan of it."""

from __future__ import annotations

BLOCK = 1 << 20
"""Of one weight, read and changed: small enough for the cache of a core."""
CHUNK = 4 << 20
"""Written by one thread. Smaller ones cost the disk more: half of its speed at 256 kB."""
LEAST_CHUNK = 1 << 20
"""The same where very many files are written at once."""
AHEAD = 64 << 20
"""Written, but kept until they are hashed, because those before them are not written yet."""
FACTORS_AT_ONCE = 32 << 20
"""Of factors in float32 that threads have in common, for all outputs that they write, and of the scales of
quantized weights; those of one tensor of one output at least."""


def chunk_size(outputs: int) -> int:
    """Bytes that a thread writes at a time to each of so many outputs."""
    return max(LEAST_CHUNK, CHUNK // outputs)
