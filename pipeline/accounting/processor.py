"""What this processor can do, where bitsandbytes rounds by it."""

from __future__ import annotations

from functools import cache


@cache
def has(feature: str) -> bool:
    """Whether the processor has instructions such as `avx512f` or `avx512bf16`, as LLVM names them."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get(feature, False))
