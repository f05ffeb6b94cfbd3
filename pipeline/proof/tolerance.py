"""How far a saved model may be from the trained one before it counts as another model.

The bounds are on functions, not on weights. The trained model multiplies by W and by the adapter apart,
the merged one by their rounded sum, so even a perfect merge answers a little otherwise. How little was
measured, as the relative error of the logits, on a trained model of 2 layers and on random ones of 2, 8
and 24 layers and of seven architectures:

    trained and saved in       2 layers     8 layers   24 layers   unit: largest error / cbrt(layers)
    float32                    < 1e-6                  1e-6        1e-4, so that other kernels fit too
    float16                    0.001                   0.004       0.0013
    bfloat16                   0.008-0.014  0.022      0.030       0.013
    bfloat16, base in 4 bits   0.008-0.017  0.026      0.034       0.013
    any, base in int8          0.015-0.032  0.047      0.060       0.026

The coarser dtype of the two models decides. A 4-bit base counts as bfloat16 whatever it computes in,
because the CPU's fast kernels do; int8 rounds the activations too. The bound is three units times the
cube root of the number of layers. On the trained model it is 0.049, where these mistakes gave: a merge
into the original weights in place of the 4-bit ones 0.095; any one of seven modules left out 0.105 and
more; the scale off by a tenth 0.060; the adapter left out 0.64, or merged twice 0.51.

An error e that is spread like noise moves the predictions by a KL of e**2 times half the variance of the
logits: up to 3 e**2 was seen, 4 e**2 is allowed. Of the adapters' effect 0.77 and more was kept where the
effect was small, 0.98 where it was not; below one half the adapter counts as lost. An effect of less than
twice what roundings do drowns in them: right merges of VeRA kept 0.49 of one of 0.009, and one into a 4-bit
Mixtral 0.11 of 0.014. There the share is not judged, and the modules tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.blueprint import Dtype, Quantization
from pipeline.proof.compare import Difference

_UNITS: dict[Dtype, float] = {"float32": 1e-4, "float16": 1.3e-3, "bfloat16": 1.3e-2}
_FOUR_BITS = _UNITS["bfloat16"]
_INT8 = 2.6e-2


@dataclass(frozen=True)
class Tolerance:
    """Bounds on a `Difference`; None leaves one unchecked."""

    max_error: float | None
    max_kl: float | None
    min_top1: float | None
    max_diff: float | None = None
    min_kept: float | None = 0.5

    def broken_by(self, found: Difference, kept: float | None) -> list[str]:
        """Say which bounds are broken, each with the figure and the bound; empty when none is.

        `kept` is the share of the adapters' effect that is left, None where that means nothing.
        """
        said = []
        for name, figure, bound in (
            ("relative error", found.error, self.max_error),
            ("mean KL", found.kl, self.max_kl),
            ("largest difference", found.max_diff, self.max_diff),
        ):
            if bound is not None and not figure <= bound:
                said.append(f"{name} {figure:.3g}, at most {bound:.3g} is allowed")
        for name, share, bound in (
            ("top-1 agreement", found.top1, self.min_top1),
            ("share of the adapters' effect that is left", kept, self.min_kept),
        ):
            if bound is not None and share is not None and not share >= bound:
                said.append(f"{name} {share:.3g}, at least {bound:.3g} is wanted")
        return said


def default_tolerance(
    dtypes: Iterable[Dtype],
    trained_on: Quantization | None,
    layers: int,
    effect: float = math.inf,
) -> Tolerance:
    """The bounds for a pair of models of `layers` layers that compute in `dtypes`.

    `trained_on` is how the base was held when the adapter was trained, or None for plain weights; `effect`
    the relative error of the base without adapters.
    """
    unit = max(_UNITS[dtype] for dtype in dtypes)
    if trained_on is not None:
        unit = max(unit, _INT8 if trained_on.kind == "int8" else _FOUR_BITS)
    roundings = unit * layers ** (1 / 3)
    max_error = 3 * roundings
    min_top1 = 0.999 if unit == _UNITS["float32"] else 0.97
    min_kept = None if effect < 2 * roundings else 0.5
    return Tolerance(max_error, max_kl=4 * max_error**2, min_top1=min_top1, min_kept=min_kept)
