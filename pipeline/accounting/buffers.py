"""What a stream holds in memory at a time, in bytes: for the stream itself and for the plan of it."""

from __future__ import annotations

BLOCK = 1 << 20
"""Of one weight, read and changed: small enough for the cache of a core."""
CHUNK = 4 << 20
"""Written at a time. Smaller ones cost the disk more: half of its speed at 256 kB."""
LEAST_CHUNK = 1 << 20
"""The same where very many files are written at once."""
_AHEAD = 64 << 20
_IN_HAND = 256 << 20
FACTORS_AT_ONCE = 32 << 20
"""Of factors in float32 that threads have in common, for all outputs that they write, and of the scales of
quantized weights; those of one tensor of one output at least."""


def chunk_size(outputs: int) -> int:
    """Bytes that a thread writes at a time to each of so many outputs: whole pages."""
    size = CHUNK
    while size > LEAST_CHUNK and size * outputs > 16 << 20:
        size //= 2
    return size


def ahead(outputs: int) -> int:
    """Bytes of all outputs that are written, and kept until those before them are: hashes go in order."""
    return _AHEAD * min(outputs, 2)


def most_threads(outputs: int) -> int:
    """How many threads may be at work: each has a chunk of every output in hand."""
    return max(1, _IN_HAND // (outputs * chunk_size(outputs)))


def range_size(outputs: int, threads: int) -> int:
    """Bytes of all outputs that a thread makes before it asks for more.

    All threads' together can be kept, unless each output's share were less than is worth a write.
    """
    return max(ahead(outputs) // threads, outputs * LEAST_CHUNK)
