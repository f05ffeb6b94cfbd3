"""`compare_merges`: which way to merge gives the best model, and what the choice is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.blueprint import Blueprint, State
from pipeline.checkpoint.mergeable import refuse_unmergeable
from pipeline.data import read_records
from pipeline.errors import InputError, Refused
from pipeline.proof.on_data import kind_for
from pipeline.proof.variants import variants, wished_for
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.proof.recommend import Measure
    from pipeline.proof.variant_figures import Model, VariantFigures
    from pipeline.record import Record
    from pipeline.run import RunContext


@step_settings
class CompareMergesSettings:
    data: str | None = None
    """A .txt or .jsonl file with texts, pairs, messages or labelled texts, as `evaluate` takes them. Without
    it, built-in texts show how near the models are, but not which is better."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Take only so many examples of the file."""
    proof: Literal["auto", "model", "modules"] = "auto"
    """What to compare: the whole `model` in memory, or its `modules` one after the other in little memory.
    `auto` is both, without the whole model where it does not fit in memory."""


def _models(trained: Blueprint) -> list[Blueprint]:
    merged = [variant.blueprint for variant in variants(trained)]
    return [trained, *filter(None, [wished_for(trained)]), *merged]


@step(needs=["base", "adapter"], live=_models)
def compare_merges(settings: CompareMergesSettings, state: State) -> State:
    """Merge the attached adapters in every way there is, measure each, and recommend one.

    Stands after `attach_adapter`, with the base as it was in training. For a quantized base the ways are to
    merge into what its 4 or 8 bits stand for (`quantized`) or into the weights that they were made from
    (`original`), each with PEFT's order of rounding and with sums in float32; and to quantize the merged
    model again (`requantized`). A base that is not quantized leaves only the rounding to choose. Each is held
    against the trained model, and against the one to wish for: base in full precision + adapter.

    One model is in memory at a time. Nothing is left but the figures: docs/comparing.md says what they mean.
    """
    blueprint = state.blueprint
    assert blueprint is not None
    if not blueprint.adapters or blueprint.folds or blueprint.dequantize:
        raise Refused(
            "all ways to merge are tried from the base and adapters as they were trained",
            fix="put this step after `attach_adapter`, before `dequantize` and `merge`",
            otherwise=state,
        )
    for adapter in blueprint.adapters:
        refuse_unmergeable(adapter, state, state)
    if settings.proof == "modules" and settings.data is not None:
        raise Refused(
            "modules are compared on random inputs, not on data",
            fix="remove `data`, or use `proof: model`",
            key="data",
            otherwise=state,
        )
    _check_data(settings, state)
    return state


def _check_data(settings: CompareMergesSettings, state: State) -> None:
    assert state.blueprint is not None
    if settings.data is None or state.run_dir in Path(settings.data).parents:
        return  # an earlier step of this recipe may write it
    try:
        records = read_records(Path(settings.data), settings.limit)
        kind = kind_for(records, state.blueprint.base.task)
    except InputError as error:
        raise Refused(
            f"{error.where}: {error.what}", fix=error.fix, key="data", otherwise=state
        ) from error
    if kind != "text":
        raise Refused(
            "models are compared by their loss, and questions with answers have none",
            fix="give `prompt` and `completion`, or save the models and use `evaluate`",
            key="data",
            otherwise=state,
        )


@compare_merges.act
def _(settings: CompareMergesSettings, run: RunContext) -> None:
    from pipeline.proof.questions import ask, questions
    from pipeline.proof.variant_figures import Model, Scales

    model, modules = _kinds(settings, run)
    asked = questions(run.live(), run, _records(settings, run)) if model else None
    trained = Model(run.blueprint, ask(run.live(), run, asked) if asked else None)
    wished = None
    if (wish := wished_for(run.blueprint)) is not None:
        wished = Model(wish, ask(run.live(wish), run, asked) if asked else None)
    elif run.blueprint.base.quantization is None:
        run.note("the base is not quantized, so the ways to merge differ in their rounding alone")
    else:
        run.note("the base is saved quantized: its original weights are not there to merge into")
    scales = Scales(run, trained, wished, asked, modules=modules)
    found = [scales.weigh(variant) for variant in variants(run.blueprint)]
    _tell(run, trained, wished, found)


def _kinds(settings: CompareMergesSettings, run: RunContext) -> tuple[bool, bool]:
    """Whether to compare the whole models, and their modules."""
    from pipeline.proof.modules import why_no_modules
    from pipeline.proof.whole import lacks_memory
    from pipeline.realise.load import torch_device

    ways = [variant.blueprint for variant in variants(run.blueprint)]
    why = why_no_modules(ways[0])
    if why and settings.proof == "modules":
        raise InputError(
            f"its modules cannot be looked at one by one: {why}",
            where=run.blueprint.base.model,
            fix="use `proof: model`",
        )
    if why:
        run.note(f"only the whole models are compared: {why}")
    device = torch_device(run.recipe.device)
    lack = next(filter(None, (lacks_memory(way, device) for way in ways)), None)
    if lack and not why and settings.proof == "auto":
        unused = "" if settings.data is None else ", and not on the data"
        run.warn(f"the models are not compared as a whole{unused}: {lack}")
        return False, True
    return settings.proof != "modules", settings.proof != "model" and not why


def _records(settings: CompareMergesSettings, run: RunContext) -> list[Record] | None:
    if settings.data is None:
        return None
    run.used(Path(settings.data))
    return read_records(Path(settings.data), settings.limit)


def _tell(
    run: RunContext, trained: Model, wished: Model | None, found: Sequence[VariantFigures]
) -> None:
    from pipeline.proof.compare import compare
    from pipeline.proof.loss import total
    from pipeline.proof.recommend import KL, MODULES
    from pipeline.proof.variant_table import variant_table

    apart = None
    if trained.seen:
        measured_on = {"positions": sum(map(len, trained.seen.logits))}
        if trained.scores:
            measured_on |= {
                "tokens": total(trained.scores).counted,
                "examples": len(trained.scores),
            }
        run.metrics(measured_on)
        run.note("on " + ", ".join(f"{count:,} {what}" for what, count in measured_on.items()))
        if wished and wished.seen:
            apart = compare(wished.seen.logits, trained.seen.logits)
            run.metrics({"trained.wished.kl": apart.kl, "trained.wished.top1": apart.top1})
    for name, model in (("trained", trained), ("wished", wished)):
        if model and model.scores:
            run.metrics({f"{name}.loss": total(model.scores).mean})
    for one in found:
        run.metrics(one.recorded)
    run.note(variant_table(found, trained, wished, apart))
    _recommend(run, found, KL if trained.seen else MODULES)


def _recommend(run: RunContext, found: Sequence[VariantFigures], measure: Measure) -> None:
    from pipeline.proof.recommend import Candidate, price, recommend

    ways = {one.variant.name: one for one in found}
    candidates = {name: Candidate(name, one.distance, one.scores) for name, one in ways.items()}
    plain = [candidates[name] for name, one in ways.items() if one.variant.requantized is None]
    best = recommend(plain, measure)
    run.metrics({"recommended": best.name})
    run.note(f"recommended: {best.name} ({ways[best.name].variant.said}): {best.reason}")
    for name, one in ways.items():
        if one.variant.requantized:
            share = one.bytes / ways[best.name].bytes
            cost = price(candidates[name], candidates[best.name], measure)
            run.note(f"{name} takes {share:.0%} of the disk: {cost}")
