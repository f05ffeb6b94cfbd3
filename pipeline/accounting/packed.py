"""Weights that bitsandbytes has packed: which tensors of a base's files together are one weight, and how.

In 4 bits, beside `x.weight`: `x.weight.absmax` (scales), `.quant_map`, `.quant_state.bitsandbytes__nf4` (JSON
with shape and dtype), and, with double quantization, `.nested_absmax` and `.nested_quant_map`. In 8 bits:
`x.SCB` (scales) and `x.weight_format`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pipeline.accounting.layout import Form, Nested, Stored, Unpack4, Unpack8
from pipeline.accounting.not_direct import NotDirectError
from pipeline.checkpoint.headers import TORCH_NAMES

BLOCK_4BIT = 64
"""Numbers under one scale of a weight in 4 bits."""
Unpacking = Unpack4 | Unpack8
NESTED_GROUP = 256
"""Scales under one factor."""
_LONGEST_STATE = 4096
_OF_4BIT = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


def unpackings(stored: Mapping[str, Stored]) -> dict[str, Unpacking]:
    """How each packed weight of a base is made plain numbers, by the weight's key.

    Reads the few bytes of JSON that stand beside each 4-bit weight. Raises NotDirectError for what is not
    packed in the one way that is known.
    """
    found: dict[str, Unpacking] = {}
    for key, where in stored.items():
        weight, mark, kind = key.partition(".quant_state.bitsandbytes__")
        if mark:
            found[weight] = _unpack4(weight, kind, _read_state(where), stored)
        elif key.endswith(".SCB"):
            weight = f"{key.removesuffix('SCB')}weight"
            found[weight] = _unpack8(weight, where, stored)
    return found


def parts_of(weight: str, how: Unpacking) -> set[str]:
    """Keys of the tensors that belong to a packed weight; some may be lacking."""
    if isinstance(how, Unpack8):
        module = weight.removesuffix("weight")
        return {f"{module}SCB", f"{module}weight_format"}
    return {f"{weight}.{part}" for part in (*_OF_4BIT, f"quant_state.bitsandbytes__{how.kind}")}


def _unpack4(
    weight: str, kind: str, state: Mapping[str, Any], stored: Mapping[str, Stored]
) -> Unpack4:
    match state:
        case {
            "quant_type": said,
            "blocksize": 64,
            "shape": [int(rows), int(columns)],
            "dtype": dtype,
        }:
            pass
        case _:
            raise NotDirectError(f"{weight} is not packed in blocks of {BLOCK_4BIT}")
    plain = next((short for short, name in TORCH_NAMES.items() if name == dtype), None)
    if said != kind or kind not in ("nf4", "fp4") or plain not in ("BF16", "F16", "F32"):
        raise NotDirectError(f"{weight} is packed as {said} of {dtype}")
    if columns % BLOCK_4BIT:
        raise NotDirectError(f"the rows of {weight} are not whole blocks of {BLOCK_4BIT}")
    blocks = rows * columns // BLOCK_4BIT
    groups = -(-blocks // NESTED_GROUP)
    nested = None
    _expect(stored, weight, "U8", rows * columns // 2)
    if "nested_offset" in state:
        if (state.get("nested_blocksize"), state.get("nested_dtype")) != (NESTED_GROUP, "float32"):
            raise NotDirectError(f"the scales of {weight} are not packed in groups of 256")
        nested = Nested(
            levels=_expect(stored, f"{weight}.nested_quant_map", "F32", 256),
            largest=_expect(stored, f"{weight}.nested_absmax", "F32", groups),
            offset=float(state["nested_offset"]),
        )
    scales = _expect(stored, f"{weight}.absmax", "F32" if nested is None else "U8", blocks)
    return Unpack4(kind, Form(plain, (rows, columns)), scales, nested)


def _unpack8(weight: str, scales: Stored, stored: Mapping[str, Stored]) -> Unpack8:
    shape = stored[weight].info.shape if weight in stored else ()
    if len(shape) != 2:
        raise NotDirectError(f"{weight} is not a matrix of 8 bits")
    _expect(stored, weight, "I8", math.prod(shape))
    _expect(stored, f"{weight.removesuffix('weight')}SCB", "F32", shape[0])
    layout = stored.get(f"{weight}_format")
    if layout is not None and any(_read(layout)):
        raise NotDirectError(f"{weight} is not stored row by row")
    return Unpack8(scales)


def _expect(stored: Mapping[str, Stored], key: str, dtype: str, count: int) -> Stored:
    where = stored.get(key)
    if where is None or where.info.dtype != dtype or math.prod(where.info.shape) != count:
        raise NotDirectError(f"{key} is not {count} numbers of {dtype}")
    return where


def _read_state(where: Stored) -> Mapping[str, Any]:
    try:
        state = json.loads(_read(where))
    except ValueError:
        state = None
    return state if isinstance(state, dict) else {}


def _read(where: Stored) -> bytes:
    if not where.file.is_file():
        raise NotDirectError("how the base is packed is known only when it is downloaded")
    with open(where.file, "rb") as file:
        file.seek(where.info.start)
        return file.read(min(where.info.bytes, _LONGEST_STATE))
