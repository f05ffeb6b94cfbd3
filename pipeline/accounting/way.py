"""The dtypes that a weight goes through: as the live realiser casts, because the order decides the bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.accounting.layout import Cast, Change, Delta, Summed, Unpack4
from pipeline.accounting.packed import Unpacking
from pipeline.blueprint import Accumulate, Quantization
from pipeline.checkpoint.headers import TORCH_NAMES


@dataclass(frozen=True)
class Way:
    """Dtypes as safetensors spells them."""

    loaded: str
    """Of all that is not packed, in memory."""
    folded: str
    """Of the model that is merged into: dequantized, and cast when that was asked for."""
    saved: str
    folds: tuple[Accumulate, ...]
    """How each merge adds up."""

    def changes(
        self,
        stored: str,
        unpacking: Unpacking | None,
        through: Quantization | None,
        deltas: Sequence[Sequence[Delta]],
    ) -> tuple[Change, ...]:
        """What happens to a weight that is `stored` in a dtype, with the deltas of each merge."""
        done: list[Change] = []
        at = stored

        def to(dtype: str) -> None:
            nonlocal at
            if at != dtype:
                done.append(Cast(dtype))
                at = dtype

        # Into a float32 sum goes what 4 or 8 bits stand for before it is rounded.
        quantized = unpacking is not None or through is not None
        wide = quantized and self.folds[:1] == ("float32",) and bool(deltas[0])
        if isinstance(unpacking, Unpack4):
            form = replace(unpacking.form, dtype="F32") if wide else unpacking.form
            done.append(replace(unpacking, form=form))
            at = form.dtype
        elif unpacking is not None:
            done.append(unpacking)
            at = "F32"
        else:
            to(self.loaded)
        if through is not None and through.kind == "int8":
            to("F16")  # as bitsandbytes begins
            to("F32")
        elif through is not None and wide:
            to("F32")
        if through is not None:
            done.append(through)
        if not wide:
            to(self.folded)
        for how, added in zip(self.folds, deltas, strict=True):
            if how == "float32" and added:
                to("F32")
                done.append(Summed(tuple(added), self.folded))
                at = self.folded
            else:
                done += added
        to(self.saved)
        return tuple(done)


def spelt(dtype: str) -> str:
    """`BF16` for `bfloat16`."""
    return next(short for short, name in TORCH_NAMES.items() if name == dtype)
