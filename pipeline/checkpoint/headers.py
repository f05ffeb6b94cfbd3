"""Headers of safetensors files, read strictly and without torch.

The format is https://huggingface.co/docs/safetensors: eight bytes (little-endian) with the header's length,
the header as JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.checkpoint.textjson import refuse_lfs_pointer
from pipeline.errors import InputError

BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of one element, by safetensors' name of the dtype."""

TORCH_NAMES: Mapping[str, str] = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""Floating-point dtypes as torch spells them."""

_LONGEST = 100_000_000  # the format's own limit
_AGAIN = "the file is damaged or was not copied whole: copy or download it again"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file."""

    dtype: str
    """As safetensors spells it: F32, BF16, U8, ..."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: Mapping[str, TensorInfo]
    """In the order in which they lie in the file."""
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file. Raises InputError, naming file and tensor."""
    status = path.stat()
    return _read_unchanged(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read_unchanged(path: Path, size: int, modified: int) -> Header:
    """A plan asks for the same headers many times, and those of a mixture of experts are long."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        rest = (
            file.read(length)
            if len(start) == 8 and length <= min(size, _LONGEST)
            else file.read(200)
        )
    return parse_header(start + rest, size=size, where=str(path))


def parse_header(data: bytes, *, size: int, where: str) -> Header:
    """Check the first bytes of a file of `size` bytes; `data` holds at least the whole header."""
    refuse_lfs_pointer(data, where=where)
    if size < 8 or len(data) < 8:
        raise InputError(
            f"is too short for a safetensors file ({size} bytes)", where=where, fix=_AGAIN
        )
    length = int.from_bytes(data[:8], "little")
    if length > _LONGEST or 8 + length > size:
        kind = _what_else(data)
        raise InputError(
            kind or f"says that its header has {length} bytes, and the file has {size}",
            where=where,
            fix=_AGAIN,
        )
    parsed = _parse_json(data[8 : 8 + length], where)
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise InputError("the header's __metadata__ is not an object", where=where, fix=_AGAIN)
    tensors = {name: _tensor(name, entry, 8 + length, where) for name, entry in parsed.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_layout(ordered, 8 + length, size, where)
    return Header(ordered, metadata)


def _parse_json(data: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"names {twice!r} twice in its header", where=where, fix=_AGAIN)
        return made

    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise InputError("its header is not JSON", where=where, fix=_AGAIN) from None
    if not isinstance(parsed, dict):
        raise InputError("its header is not a JSON object", where=where, fix=_AGAIN)
    return parsed


def _tensor(name: str, entry: Any, base: int, where: str) -> TensorInfo:
    here = f"{where}: {name}"
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise InputError(
                "its header lacks dtype, shape or data_offsets", where=here, fix=_AGAIN
            )
    if dtype not in BITS:
        raise InputError(
            f"has the dtype {dtype!r}, which is not known",
            where=here,
            fix="a newer version may know it",
        )
    if any(type(n) is not int or n < 0 for n in shape) or not 0 <= start <= end:
        raise InputError(f"has the impossible shape {shape} or offsets", where=here, fix=_AGAIN)
    if math.prod(shape) * BITS[dtype] != (end - start) * 8:
        raise InputError(
            f"shape {shape} of {dtype} does not take the {end - start} bytes that are set aside for it",
            where=here,
            fix=_AGAIN,
        )
    return TensorInfo(dtype, tuple(shape), base + start, base + end)


def _check_layout(tensors: Mapping[str, TensorInfo], base: int, size: int, where: str) -> None:
    at = base
    for name, tensor in tensors.items():
        if tensor.start != at:
            what = (
                "overlaps the tensor before it" if tensor.start < at else "leaves a gap before it"
            )
            raise InputError(what, where=f"{where}: {name}", fix=_AGAIN)
        at = tensor.end
        if at > size:
            raise InputError(
                f"ends at byte {at}, and the file has {size}", where=f"{where}: {name}", fix=_AGAIN
            )
    if at != size:
        raise InputError(f"has {size - at} bytes after its last tensor", where=where, fix=_AGAIN)


def _what_else(data: bytes) -> str | None:
    """What a file that is no safetensors file seems to be."""
    if data[:2] == b"PK":
        return "is a pickle of torch.save under the name of a safetensors file"
    if data[:4] == b"GGUF":
        return "is a GGUF file under the name of a safetensors file"
    if data.lstrip()[:1] == b"<":
        return "is a web page, not a safetensors file"
    return None
