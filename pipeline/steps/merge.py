"""`merge`: fold the attached adapters into the weights of the base."""

from __future__ import annotations

from dataclasses import replace

from pipeline.blueprint import Accumulate, Fold, State
from pipeline.checkpoint.mergeable import refuse_unmergeable
from pipeline.errors import Refused
from pipeline.steps import step, step_settings


@step_settings
class MergeSettings:
    safe: bool = True
    """Stop the run when a merged weight is NaN or infinite, and name the module."""
    accumulate: Accumulate = "peft"
    """`peft` rounds after each delta, as PEFT does; `float32` adds all up in float32 and rounds once."""


@step(needs=["base", "adapter"])
def merge(settings: MergeSettings, state: State) -> State:
    """Fold every attached adapter into the base, so that the result serves without PEFT."""
    blueprint = state.blueprint
    assert blueprint is not None
    if not blueprint.adapters:
        raise Refused(
            "every adapter is merged already", fix="add an `attach_adapter` step before this one"
        )
    folded = replace(
        blueprint,
        adapters=(),
        folds=(*blueprint.folds, Fold(blueprint.adapters, settings.safe, settings.accumulate)),
    )
    if blueprint.quantized:
        kind = blueprint.base.quantization and blueprint.base.quantization.kind
        raise Refused(
            f"the base is still quantized ({kind}); merging into it would round the adapter away",
            fix="add the line `- dequantize` before this step",
            otherwise=state.with_blueprint(folded),
        )
    for adapter in blueprint.adapters:
        refuse_unmergeable(adapter, state, state.with_blueprint(folded))
    return state.with_blueprint(folded)
