"""`dequantize`: hold a quantized base in full precision, so that it can be merged into."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.blueprint import Dtype, State
from pipeline.errors import Refused
from pipeline.steps import step, step_settings


@step_settings
class DequantizeSettings:
    dtype: Literal["auto"] | Dtype = "auto"
    """Dtype of the dequantized weights; `auto` is the one that bitsandbytes dequantizes to, which is the
    dtype the weights had when they were quantized."""


@step(needs=["base"])
def dequantize(settings: DequantizeSettings, state: State) -> State:
    """Turn the 4-bit or 8-bit layers of the base back into plain ones, with the values that the adapter
    was trained against.

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
    return state.with_blueprint(replace(blueprint, dequantize=True, dequantize_dtype=dtype))
