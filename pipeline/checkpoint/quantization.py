"""How a checkpoint says that it is quantized, and whether it really is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.blueprint import DTYPES, Dtype, Quantization
from pipeline.checkpoint.headers import TensorInfo
from pipeline.errors import InputError


def read_quantization(config: Mapping[str, Any], where: str) -> Quantization | None:
    """What `quantization_config` says; InputError for methods other than bitsandbytes'."""
    said = config.get("quantization_config") or config.get("compression_config")
    if said is None:
        text = config.get("text_config")
        said = text.get("quantization_config") if isinstance(text, dict) else None
    if not said:
        return None
    if not isinstance(said, dict):
        raise InputError(
            "`quantization_config` is not an object", where=where, fix="mend config.json"
        )
    four, eight = said.get("load_in_4bit") is True, said.get("load_in_8bit") is True
    method = said.get("quant_method") or ("bitsandbytes" if four or eight else "an unnamed method")
    if str(method).startswith("bitsandbytes"):
        if eight:
            return Quantization("int8", saved=True)
        if four:
            return _four_bit(said, where)
        return None
    raise InputError(
        f"is quantized with {method}, and only bitsandbytes (4 and 8 bit) can be read",
        where=where,
        fix="use the original base that it was made from, in full precision",
    )


def _four_bit(said: Mapping[str, Any], where: str) -> Quantization:
    kind = said.get("bnb_4bit_quant_type", "fp4")
    if kind not in ("nf4", "fp4"):
        raise InputError(
            f"`bnb_4bit_quant_type` is {kind!r}", where=where, fix="it must be nf4 or fp4"
        )
    return Quantization(
        kind=kind,
        double_quant=bool(said.get("bnb_4bit_use_double_quant", False)),
        storage=_plain(said.get("bnb_4bit_quant_storage")) or "uint8",
        compute_dtype=as_dtype(said.get("bnb_4bit_compute_dtype")),
        saved=True,
    )


def check_quantized(
    said: Quantization | None, tensors: Mapping[str, TensorInfo], where: str
) -> None:
    """Raise InputError when the tensors are not quantized as the config says.

    A `quantization_config` that was left behind makes loaders quantize, or fail, for no visible reason.
    """
    if said is None or not tensors:
        return
    mark = "SCB" if said.kind == "int8" else f"quant_state.bitsandbytes__{said.kind}"
    if not any(name.endswith(mark) for name in tensors):
        raise InputError(
            f"says that the weights are in {said.kind}, and they are not",
            where=where,
            fix="remove the left-over `quantization_config` from it",
        )


def as_dtype(value: object) -> Dtype | None:
    """`bfloat16` of `torch.bfloat16` or `bfloat16`; None for what a model cannot be loaded in."""
    name = _plain(value)
    return next((dtype for dtype in DTYPES if dtype == name), None)


def _plain(value: object) -> str | None:
    return value.removeprefix("torch.") if isinstance(value, str) else None
