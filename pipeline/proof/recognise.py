"""How was a folder merged that has no receipt? A few of its layers tell.

What an adapter is added to decides every bit of the sum: the weights as they are saved, or those that 4 or 8
bits leave of them, in one dtype or another. The smallest of the layers that bitsandbytes would quantize are
made in each way, and the folder's own say which it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.accounting.layout import Stored
from pipeline.blueprint import Blueprint, Quantization, SavedDtype
from pipeline.checkpoint.base import inspect_base
from pipeline.errors import InputError, MergeError
from pipeline.proof.findings import Findings
from pipeline.proof.origins import rebuild
from pipeline.proof.tensors import find_tensors

_LAYERS = 2
"""That are looked at: more than one, since one may be broken."""
_MOST = 0.5
"""Share of their numbers that may differ. Of layers merged in another way nearly all do, of those merged on
another device a few; and one may be broken."""
_QUANTIZATIONS = (
    Quantization("nf4"),
    Quantization("nf4", double_quant=True),
    Quantization("fp4"),
    Quantization("fp4", double_quant=True),
    Quantization("int8"),
)


@dataclass(frozen=True)
class _Way:
    """One way to have merged."""

    said: str
    """Into what."""
    blueprint: Blueprint


def recognise(folder: Path, plain: Blueprint, dtype: SavedDtype, found: Findings) -> Blueprint:
    """The blueprint that a folder saved in `dtype` was merged by, as far as its layers tell.

    `plain` names base and adapters. It is also the answer where nothing else is nearer, and `found` says so;
    inputs that cannot be used are left to `check_origins`.
    """
    with suppress(InputError, MergeError):
        ways = list(_ways(plain, dtype))
        usual = ways[0]
        there = find_tensors(str(folder))
        layers = _layers(plain) & there.keys()
        chosen = sorted(layers, key=lambda key: (there[key].info.bytes, key))[:_LAYERS]
        if not chosen:
            return usual.blueprint
        shares: list[float] = []
        while len(shares) < len(ways) and 0 not in shares:
            way = ways[len(shares)].blueprint
            shares.append(_share(way, dtype, {key: there[key] for key in chosen}))
        names, least = " and ".join(chosen), min(shares)
        if least > _MOST:
            found.skipped.append(
                f"how it was merged: {names} are far from a merge into "
                f"{', or into '.join(way.said for way in ways)}; all is compared with the first of these"
            )
            return usual.blueprint
        nearest = ways[shares.index(least)]
        found.checked.append(f"how it was merged, by {names}: into {nearest.said}")
        return nearest.blueprint
    return plain


def _ways(plain: Blueprint, dtype: SavedDtype) -> Iterator[_Way]:
    """The usual one first."""
    base = inspect_base(plain.base)
    other = None if dtype == "keep" or dtype == base.dtype else dtype
    for wanted in dict.fromkeys((None, other)):
        of = replace(plain, base=replace(plain.base, dtype=wanted))
        loaded = f" in {wanted}" if wanted else ""
        if base.quantization:
            yield _Way(f"the dequantized weights{loaded}", _through(of, base.quantization))
            continue
        yield _Way(f"the weights as they are saved{loaded}", of)
        for quantization in _QUANTIZATIONS:
            double = " with double quantization" if quantization.double_quant else ""
            said = f"what {quantization.kind}{double} makes of the weights{loaded}"
            yield _Way(said, _through(of, quantization))


def _through(plain: Blueprint, quantization: Quantization) -> Blueprint:
    return replace(plain, base=replace(plain.base, quantization=quantization), dequantize=True)


def _layers(plain: Blueprint) -> frozenset[str]:
    """Keys of the weights that bitsandbytes would quantize, or has quantized."""
    base, held = replace(plain, folds=()), inspect_base(plain.base).quantization
    if held:
        return _made(_through(base, held))
    return _made(_through(base, _QUANTIZATIONS[0])) - _made(base)


def _made(blueprint: Blueprint) -> frozenset[str]:
    again = rebuild(blueprint, "keep")
    if isinstance(again, str):
        return frozenset()
    return frozenset(tensor.key for tensor in again.work.tensors if not tensor.copied)


def _share(blueprint: Blueprint, dtype: SavedDtype, there: Mapping[str, Stored]) -> float:
    """Of the numbers of some tensors, those that a blueprint makes otherwise; the mean over the tensors."""
    again = rebuild(blueprint, dtype)
    if isinstance(again, str):
        return 1.0
    tensors = [tensor for tensor in again.work.tensors if tensor.key in there]
    other = again.differences(tensors, there, lambda count: None)
    return sum(one.change.share if one.change else 1.0 for one in other) / len(there)
