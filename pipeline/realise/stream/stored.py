"""Small tensors that are read whole: factors of adapters, scales of quantized weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.accounting.layout import Stored, Unpack4
from pipeline.accounting.packed import NESTED_GROUP
from pipeline.realise.stream.files import read_bytes


def read_floats(tensor: Stored) -> NDArray[np.float32]:
    """A stored tensor as float32, in its shape."""
    return as_float32(_read(tensor), tensor.info.dtype).reshape(tensor.info.shape)


def stored_scales(change: Unpack4) -> NDArray[np.float32]:
    """The scale of each block of 64 numbers of a weight that is stored in 4 bits."""
    if change.nested is None:
        return read_floats(change.scales).reshape(-1)
    codes = np.frombuffer(_read(change.scales), np.uint8)
    largest = read_floats(change.nested.largest).repeat(NESTED_GROUP)[: len(codes)]
    found: NDArray[np.float32] = read_floats(change.nested.levels)[codes] * largest
    return found + np.float32(change.nested.offset)


def as_float32(raw: bytearray | memoryview, dtype: str) -> NDArray[np.float32]:
    """Raw numbers, of a dtype as safetensors spells it, as float32."""
    if dtype == "F32":
        return np.frombuffer(raw, np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, np.float16).astype(np.float32)
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _read(tensor: Stored) -> bytearray:
    return read_bytes(tensor.file, tensor.info.start, tensor.info.bytes)
