"""The ways to merge the attached adapters of a model, each said as a blueprint.

An adapter that was trained on a quantized base can be merged into the values that the 4 or 8 bits stand for,
or into the weights that they were made from; the sum can be rounded as PEFT does or once; and what comes out
can be quantized again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from pipeline.blueprint import Accumulate, Blueprint, Fold, Quantization, Weights


@dataclass(frozen=True)
class Variant:
    """One way to merge."""

    name: str
    """In the table and the manifest."""
    blueprint: Blueprint
    """The merged model, in full precision."""
    requantized: Quantization | None = None
    """How the merged model is quantized again, if it is."""

    @property
    def said(self) -> str:
        """What makes it, as the lines of a recipe between `attach_adapter` and `save`."""
        lines = [
            f"dequantize: {{from: {self.blueprint.dequantize_from}}}"
        ] * self.blueprint.dequantize
        lines.append(f"merge: {{accumulate: {self.blueprint.folds[-1].accumulate}}}")
        if self.requantized:
            lines.append("quantized again")
        return ", ".join(lines)


def variants(trained: Blueprint) -> list[Variant]:
    """All ways to merge the adapters of a model as it was trained, the usual one first.

    A base that is not quantized has only its original weights; of one that is saved quantized they are lost.
    """
    held = trained.base.quantization
    sources: tuple[Weights, ...] = get_args(Weights)
    if held is None:
        sources = ("original",)
    elif held.saved:
        sources = ("quantized",)
    found = [
        Variant(
            source if accumulate == "peft" else f"{source}_{accumulate}",
            replace(
                folded(trained, accumulate),
                dequantize=held is not None,
                dequantize_from=source if held else "quantized",
            ),
        )
        for source, accumulate in product(sources, get_args(Accumulate))
    ]
    if held is not None:
        again = replace(held, saved=False)
        found.append(Variant("requantized", found[0].blueprint, again))
    return found


def wished_for(trained: Blueprint) -> Blueprint | None:
    """The model that one would have liked to train: the base in full precision, with the adapters.

    None where that is the trained model itself, or where the base in full precision is not at hand.
    """
    held = trained.base.quantization
    if held is None or held.saved:
        return None
    return replace(trained, base=replace(trained.base, quantization=None))


def folded(attached: Blueprint, accumulate: Accumulate = "peft") -> Blueprint:
    """The same with its adapters merged."""
    fold = Fold(attached.adapters, accumulate=accumulate)
    return replace(attached, adapters=(), folds=(*attached.folds, fold))
