"""How far a saved module may be from the trained one before something else than rounding was done to it.

Everything is computed in float32, so that the roundings of the weights are all that sets a right module
apart. A rounded number is off by a known share of it, whatever the model. The largest relative errors that
`benchmarks/roundings.py` prints, and those of all right merges in tests/parity/test_modules.py, which holds
every kind of adapter:

    merged and saved in    LoRA      all kinds    unit
    float32                4.8e-7    4.8e-7       1e-6, for longer rows
    float16                2.1e-4    2.2e-4       2.2e-4
    bfloat16               1.8e-3    2.8e-3       1.8e-3

The coarser dtype of the two decides, and each adapter of a merge is rounded once. The bound on the error is
1.75 units times the root of the number of adapters: 0.0032 for one in bfloat16. A base that went through 4
bits with scales of another kind than the adapter saw gives 0.0034.

That bound does not see a delta that is a tenth too large, where the delta itself is a hundredth of the base.
The share of the delta that is there does: roundings that do not follow the delta cancel out in it, to 0.1 %
and less where the delta is a tenth of the base. Rounding takes a part of small deltas, as a change of less
than half of the last digit is lost. Of a delta in bfloat16 was kept

    delta / base   0.03          0.01          0.005       0.0025      0.001       0.0005
    kept           1.000-1.001   0.997-1.001   0.98-0.99   0.88-0.90   0.52-0.54   0.28-0.30

so a module may be off by 0.05, by one unit over the size of its delta, and by five standard deviations of
what does cancel out. Of the delta as a whole one half must be kept, or the merge has lost the fine-tune: it
may be right as a sum, and yet should be saved in a wider dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.blueprint import Dtype
from pipeline.proof.modules import ModuleFigures

_UNITS: dict[Dtype, float] = {"float32": 1e-6, "float16": 2.2e-4, "bfloat16": 1.8e-3}
_DEVIATIONS = 5


@dataclass(frozen=True)
class ModuleTolerance:
    """Bounds on the figures of modules; None leaves one unchecked."""

    unit: float
    """The relative error of one rounding."""
    max_module_error: float | None
    max_delta_off: float | None = 0.05
    min_delta_kept: float | None = 0.5

    def broken_by(self, figures: ModuleFigures) -> list[str]:
        """Say which bounds a module breaks, each with the figure and the bound; empty when none is."""
        said = []
        bound = self.max_module_error
        if bound is not None and not figures.error <= bound:
            said.append(f"error {figures.error:.3g}, at most {bound:.3g} is allowed")
        if self.max_delta_off is not None and figures.delta_kept is not None:
            small = self.unit / figures.delta if figures.delta else math.inf
            allowed = self.max_delta_off + small + _DEVIATIONS * figures.noise
            if not abs(figures.delta_kept - 1) <= allowed:
                said.append(
                    f"{figures.delta_kept:.3g} of the delta is there, {allowed:.2g} more or less is allowed"
                )
        return said

    def lost(self, figures: Sequence[ModuleFigures]) -> str | None:
        """Say that too much of the delta as a whole is gone; None when it is not."""
        kept = delta_kept(figures)
        if self.min_delta_kept is None or kept is None or kept >= self.min_delta_kept:
            return None
        return f"{kept:.3g} of the delta is left, at least {self.min_delta_kept:.3g} is wanted"


def default_module_tolerance(dtypes: Iterable[Dtype], adapters: int) -> ModuleTolerance:
    """The bounds for modules that are merged and saved in `dtypes`, with so many adapters at once."""
    unit = max(_UNITS[dtype] for dtype in dtypes)
    return ModuleTolerance(unit, max_module_error=1.75 * unit * math.sqrt(adapters))


def delta_kept(figures: Iterable[ModuleFigures]) -> float | None:
    """What is kept of the delta over all modules, each counted by the square of its delta over its base."""
    pairs = [
        (found.delta**2, found.delta_kept)
        for found in figures
        if found.delta_kept is not None and math.isfinite(found.delta)
    ]
    whole = sum(weight for weight, _ in pairs)
    return sum(weight * kept for weight, kept in pairs) / whole if whole else None
