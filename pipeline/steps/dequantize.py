"""`dequantize`: hold a quantized base in full precision, so that it can be merged into."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.blueprint import Dtype, State, Weights
from pipeline.errors import Refused
from pipeline.steps import step, step_settings


@step_settings
class DequantizeSettings:
    from_: Weights = "quantized"
    """`quantized` keeps the values that 4 or 8 bits can hold, against which a QLoRA adapter was trained;
    `original` takes the weights as they were before they were quantized."""
    dtype: Literal["auto"] | Dtype = "auto"
    """Dtype of the dequantized weights; `auto` is the one that bitsandbytes dequantizes to, which is the
    dtype the weights had when they were quantized."""


@step(needs=["base"])
def dequantize(settings: DequantizeSettings, state: State) -> State:
    """Turn the 4-bit or 8-bit layers of the base back into plain ones, by default with the values that the
    adapter was trained against.

    May stand before or after `attach_adapter`; both give the same model.
    """
    blueprint = state.blueprint
    assert blueprint is not None  # the registry's `needs` sees to it
    if blueprint.base.quantization is None:
        raise Refused(
            "the base is not quantized, so there is nothing to dequantize",
            fix="remove this step, or load the base with `load_base: nf4`",
        )
    if blueprint.dequantize:
        raise Refused("the base is dequantized already", fix="remove this step")
    dtype = None if settings.dtype == "auto" else settings.dtype
    after = state.with_blueprint(
        replace(blueprint, dequantize=True, dequantize_dtype=dtype, dequantize_from=settings.from_)
    )
    if settings.from_ == "original" and blueprint.base.quantization.saved:
        raise Refused(
            f"the base is saved in {blueprint.base.quantization.kind}, without its original weights",
            fix="load the model that it was made from, quantized as in the training, or remove `from`",
            key="from",
            otherwise=after,
        )
    return after
