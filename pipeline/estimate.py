"""How large a model will be, on disk and in memory, from what its headers and config say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.accounting.buffers import BLOCK, FACTORS_AT_ONCE, ahead, chunk_size, most_threads
from pipeline.accounting.layout import Tensor
from pipeline.accounting.modular import BUDGET
from pipeline.accounting.processor import cores
from pipeline.blueprint import Blueprint, Dtype
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import BaseCheckpoint, inspect_base
from pipeline.checkpoint.headers import TORCH_NAMES
from pipeline.errors import InputError

BYTES: Mapping[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
LIBRARIES = 700_000_000
"""Resident bytes of torch, transformers, peft and bitsandbytes themselves, measured on a CPU."""
_STREAM = 170_000_000
"""Resident bytes of Python, numpy and numba with its kernels."""
_SHARED = _STREAM + FACTORS_AT_ONCE
_SUMMED_BY_TORCH = 210_000_000
"""Those of torch, which finds the mean of scales that are quantized too."""
_COPIES = 3
"""Of each: as it is read, as it is merged, and as it is written."""

_KEPT_WHOLE = ("embed", "lm_head", "wte", "wpe", "embed_out")
"""Parts of the names of matrices that bitsandbytes leaves in full precision."""


def saved_bytes(blueprint: Blueprint, dtype: Dtype | None = None) -> int:
    """Bytes of the weights of a saved model; `dtype` None keeps the base's own. Raises InputError."""
    base = inspect_base(blueprint.base)
    return _in_memory(blueprint, base, dtype or base.dtype)


def live_bytes(blueprint: Blueprint) -> int:
    """Most bytes of weights that are in memory while the model is made. Raises InputError.

    A quantized base that is dequantized is there in both forms, layer by layer; adapters come on top, and
    folding one needs room for a few of its deltas. Sums in float32 take all matrices in it.
    """
    base = inspect_base(blueprint.base)
    dtype = blueprint.dequantize_dtype or blueprint.base.dtype or base.dtype
    model = _in_memory(blueprint, base, dtype)
    if blueprint.dequantize:
        model += _in_memory(replace(blueprint, dequantize=False), base, dtype) // 8
    if any(fold.accumulate == "float32" for fold in blueprint.folds):
        matrices, _ = count_elements(base)
        model += matrices * (BYTES["float32"] - BYTES[dtype])
    return model + 2 * sum(_adapter_bytes(blueprint))


def stream_bytes(tensors: Iterable[Tensor], threads: int | None = None) -> int:
    """Most bytes that a stream takes, libraries included. By default there is a thread for each core."""
    tensors = list(tensors)
    factors = max(map(_factors, tensors), default=0)
    own = BLOCK + chunk_size(1) + factors
    threads = min(threads or cores(), most_threads(1))
    return _SHARED + ahead(1) + threads * own + _scales(tensors)


def pass_bytes(outputs: Sequence[Sequence[Tensor]]) -> int:
    """The same of a pass over a base that writes several outputs: the factors of a few of them at a time."""
    largest = [max(map(_factors, tensors), default=0) for tensors in outputs]
    factors = max(*largest, min(sum(largest), FACTORS_AT_ONCE))
    scales = max(map(_scales, outputs), default=0)
    count = len(outputs)
    threads = min(cores(), most_threads(count))
    own = 2 * BLOCK + count * chunk_size(count) + factors
    held = count * chunk_size(count) // 2  # edges, of two files of each
    return _SHARED + ahead(count) + held + threads * own + scales


def _factors(tensor: Tensor) -> int:
    return sum(delta.bytes for delta in tensor.deltas)


def _scales(tensors: Iterable[Tensor]) -> int:
    """Of the largest weight whose scales are quantized too."""
    nested = [t for t in tensors if t.through is not None and t.through.double_quant]
    return max((_SUMMED_BY_TORCH + math.prod(t.form.shape) // 64 * 4 for t in nested), default=0)


def modular_bytes(blueprint: Blueprint) -> int:
    """Most bytes that a stream takes that has PEFT make a few modules at a time, libraries included.

    Raises InputError.
    """
    base = inspect_base(blueprint.base)
    dtype = blueprint.dequantize_dtype or blueprint.base.dtype or base.dtype
    sizes = (math.prod(t.shape) for name, t in base.tensors.items() if not _kept_whole(name))
    window = max(BUDGET, max(sizes, default=0) * BYTES[dtype])
    buffers = cores() * (BLOCK + chunk_size(1))
    return LIBRARIES + buffers + _COPIES * window + sum(_adapter_bytes(blueprint))


def _adapter_bytes(blueprint: Blueprint) -> list[int]:
    sizes = []
    for adapter in blueprint.all_adapters:
        try:
            sizes.append(inspect_adapter(adapter).bytes)
        except InputError:
            sizes.append(0)  # written by a step of this recipe, and small next to the base
    return sizes


def _in_memory(blueprint: Blueprint, base: BaseCheckpoint, dtype: Dtype) -> int:
    matrices, rest = count_elements(base)
    if not blueprint.quantized:
        return (matrices + rest) * BYTES[dtype]
    quantization = blueprint.base.quantization
    assert quantization is not None
    if quantization.kind == "int8":
        return matrices + rest * BYTES[dtype]
    # Half a byte, and a scale per block of 64: four bytes, or about one with double quantization.
    scale = 1.03 if quantization.double_quant else 4
    return math.ceil(matrices * (0.5 + scale / 64)) + rest * BYTES[dtype]


def count_elements(base: BaseCheckpoint) -> tuple[int, int]:
    """Elements of the matrices that bitsandbytes would quantize, and of all other tensors."""
    saved = base.quantization
    if base.pickle:
        total = base.weight_bytes // BYTES[base.dtype]
        if saved is not None:
            total = base.weight_bytes * (2 if saved.kind != "int8" else 1)
        return total * 9 // 10, total // 10
    matrices = rest = 0
    for name, tensor in base.tensors.items():
        if saved is not None and _describes_quantization(name):
            continue
        elements = math.prod(tensor.shape)
        if saved is not None and tensor.dtype not in TORCH_NAMES:
            matrices += elements * (2 if saved.kind != "int8" else 1)
        elif saved is None and len(tensor.shape) >= 2 and not _kept_whole(name):
            matrices += elements
        else:
            rest += elements
    return matrices, rest


def _kept_whole(name: str) -> bool:
    return any(part in name for part in _KEPT_WHOLE)


def _describes_quantization(name: str) -> bool:
    return name.endswith(
        (".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map", ".SCB")
    ) or (".quant_state." in name or name.endswith(".weight_format"))
