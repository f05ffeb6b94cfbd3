"""How far a saved model may be from the trained one before it counts as another model.

The bounds are on functions, not on weights: the trained model multiplies by W and by the adapter apart,
the merged one by their sum, which was rounded to the saved dtype. What is left is rounding, and rounding
grows with the dtype's spacing (2**-24, 2**-11, 2**-8 relative for float32, float16, bfloat16) and with
depth.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.blueprint import Dtype, Quantization
from pipeline.proof.compare import Difference


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
                said.append(f"{name} {figure:.3g}, at most {bound:g} is allowed")
        for name, share, bound in (
            ("top-1 agreement", found.top1, self.min_top1),
            ("share of the adapters' effect that is left", kept, self.min_kept),
        ):
            if bound is not None and share is not None and not share >= bound:
                said.append(f"{name} {share:.3g}, at least {bound:g} is wanted")
        return said


_BY_DTYPE: dict[Dtype, Tolerance] = {
    "float32": Tolerance(max_error=1e-3, max_kl=1e-5, min_top1=1.0),
    "float16": Tolerance(max_error=2e-2, max_kl=2e-3, min_top1=0.98),
    "bfloat16": Tolerance(max_error=1e-1, max_kl=1e-2, min_top1=0.95),
}


def default_tolerance(saved: Dtype, trained_on: Quantization | None) -> Tolerance:
    """The bounds for a model saved in dtype `saved` whose adapter saw a base held as `trained_on`."""
    return _BY_DTYPE[saved]
