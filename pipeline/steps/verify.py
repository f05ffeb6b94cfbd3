"""`verify`: is the saved model the one that was trained?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field

from pipeline.blueprint import Blueprint, Folder, State
from pipeline.checkpoint.pending import pending_folder
from pipeline.errors import InputError, Refused, VerificationError
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.run import RunContext

Bound = Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
Share = Literal["auto"] | Annotated[float, Field(ge=0, le=1)] | None
B = TypeVar("B", bound=Any)

_NAMED = 3
"""Modules and tensors that an error names; the rest is counted."""


@step_settings
class VerifySettings:
    folder: str | None = None
    """The saved model; by default the one that the recipe saved last. Another folder is held against the
    model as it stands at this point."""
    proof: Literal["auto", "model", "modules", "both"] = "auto"
    """What to compare: the whole `model` in memory, its `modules` and tensors one after the other in little
    memory, or `both`. `auto` is both, without the whole model where it does not fit in memory."""
    publish: Literal["proven", "always"] = "proven"
    """Whether a folder of this recipe gets its name only when it has passed, or in any case."""
    prompts: str | list[str] = field(default_factory=list)
    """Texts on which to compare, or a file with one on each line; by default some that exercise tokenizer and
    model."""
    max_error: Bound = "auto"
    """Largest relative error: the norm of the difference of the logits over the norm of the logits."""
    max_kl: Bound = "auto"
    """Largest mean KL divergence, in nats, of the saved model's predictions from the trained one's."""
    min_top1: Share = "auto"
    """Least share of positions at which both find the same token likeliest. Where the trained model has
    two tokens nearly equal, either counts."""
    max_diff: Bound = None
    """Largest absolute difference of any logit."""
    min_kept: Share = "auto"
    """Least share of what the adapters changed in the logits that the saved model shows too."""
    max_module_error: Bound = "auto"
    """Largest relative error of any merged module's answers to random inputs."""
    max_delta_off: Bound = "auto"
    """By how much the delta of a module may be too large or too small, as a share of it, besides what
    rounding explains."""
    min_delta_kept: Share = "auto"
    """Least share of the delta, over all modules, that survives the rounding to the saved dtype."""


@step(needs=["base"], live=True)
def verify(settings: VerifySettings, state: State) -> State:
    """Compare a saved model with the base and adapters as they were trained; fail if it differs.

    The saved folder is loaded from disk in a separate process that cannot import peft: what is measured
    is what a server of it would give. Each merged module is compared as well, on random inputs, and each
    tensor with what base and adapters make of it. A bound of `auto` follows the dtype that was saved and
    how the base was quantized (docs/proof.md has the figures and why); `null` leaves a bound unchecked.
    """
    folder = _folder(settings, state)
    known = folder in state.folders
    if not known and not (folder.path / "config.json").is_file():
        raise Refused(
            f"{folder.path} holds no model (it has no config.json)",
            fix="name a folder that `save` wrote, or leave `folder` out",
            key="folder",
        )
    if isinstance(settings.prompts, str) and not _lines(settings.prompts):
        raise Refused(
            f"{settings.prompts} is no text file with lines",
            fix="name a file with a prompt on each line, or list the prompts",
            key="prompts",
            otherwise=state,
        )
    if settings.proof == "modules" and not folder.blueprint.folds:
        raise Refused(
            "no adapter was merged, so there are no merged modules",
            fix="use `proof: model`",
            key="proof",
            otherwise=state,
        )
    return state.with_judged(folder.path) if known and settings.publish == "proven" else state


def _lines(file: str) -> list[str]:
    try:
        return [
            line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except (OSError, UnicodeDecodeError):
        return []


def _folder(settings: VerifySettings, state: State) -> Folder:
    """The folder to look at, with the blueprint that it should hold."""
    if settings.folder is None:
        last = state.last_folder("model")
        if last is None:
            raise Refused(
                "no step before this one saves a model",
                fix="add `- save` before it, or name a `folder`",
                key="folder",
            )
        return last
    assert state.blueprint is not None
    here = pending_folder(settings.folder, "model", state)
    return here or Folder(Path(settings.folder), state.blueprint)


@verify.act
def _(settings: VerifySettings, run: RunContext) -> None:
    from pipeline.receipt.record import FILE_NAME, Proof, add_proof

    folder = _folder(settings, run.state)
    here = replace(folder, path=run.holding.where(folder.path))
    model, modules = _kinds(settings, run, folder.blueprint)
    wrong = _compare_whole(settings, run, here) if model else []
    if modules:
        wrong += _compare_modules(settings, run, here)
    if folder in run.state.folders:
        wrong += _compare_tensors(run, here)
        proof = Proof(step=run.step_id, passed=not wrong, figures=dict(run.record.metrics))
        if add_proof(here.path, proof):
            run.made(folder.path / FILE_NAME)
    if wrong:
        hidden = here.path != folder.path
        raise VerificationError(
            f"it is not the model that was trained: {'; '.join(wrong)}",
            where=folder.path,
            fix="look at the steps between `attach_adapter` and `save`; widen a bound only when you know why"
            + ("; with `publish: always` the folder appears all the same" if hidden else ""),
        )
    run.holding.publish(folder.path)


def _kinds(settings: VerifySettings, run: RunContext, blueprint: Blueprint) -> tuple[bool, bool]:
    """Whether to compare the whole model, and its modules."""
    from pipeline.proof.modules import why_no_modules
    from pipeline.proof.whole import lacks_memory
    from pipeline.realise.load import torch_device

    model, modules = settings.proof != "modules", settings.proof != "model"
    if modules and (why := why_no_modules(blueprint)):
        if settings.proof == "modules":
            raise InputError(
                f"its modules cannot be looked at one by one: {why}",
                where=blueprint.base.model,
                fix="use `proof: model`",
            )
        if blueprint.folds:
            run.note(f"only the whole model is compared: {why}")
        modules = False
    lack = lacks_memory(blueprint, torch_device(run.recipe.device))
    if lack and modules and settings.proof == "auto":
        run.note(f"the model is not compared as a whole: {lack}")
        model = False
    return model, modules


def _compare_whole(settings: VerifySettings, run: RunContext, folder: Folder) -> list[str]:
    """What is outside the bounds of the whole model, in words."""
    from pipeline.checkpoint.beside import target_of
    from pipeline.proof.reference import NEW_TOKENS
    from pipeline.proof.whole import prove_whole

    prompts = settings.prompts
    if isinstance(prompts, str):
        run.used(Path(prompts))
        prompts = _lines(prompts)
    proof = prove_whole(run, folder, prompts)
    found, kept = proof.found, proof.kept
    run.metrics(
        {
            "error": found.error,
            "kl": found.kl,
            "top1": found.top1,
            "max_diff": found.max_diff,
            "mean_diff": found.mean_diff,
            "kept": kept,
            "same_text": proof.same_text,
            "positions": found.positions,
        }
    )
    run.note(
        f"{target_of(folder.path).name} against the trained model, {found.positions} positions: error "
        f"{found.error:.2%}, KL {found.kl:.2g}, top-1 {found.top1:.1%}"
        + ("" if kept is None else f", {kept:.1%} of the adapters' effect kept")
        + (
            ""
            if proof.same_text is None
            else f"; the same text for at least {proof.same_text} of {NEW_TOKENS} tokens"
        )
    )
    if proof.differences is not None:
        run.histogram("logit_differences", proof.differences)
    bounds = _asked(settings, proof.default)
    run.bounds(
        {
            "error": bounds.max_error,
            "kl": bounds.max_kl,
            "top1": bounds.min_top1,
            "max_diff": bounds.max_diff,
            "kept": bounds.min_kept,
        }
    )
    outside = bounds.broken_by(found, kept)
    return [*outside, f"worst at {proof.worst}"] if outside else []


def _compare_modules(settings: VerifySettings, run: RunContext, folder: Folder) -> list[str]:
    """What is outside the bounds of single modules, in words."""
    from pipeline.proof.module_table import module_table
    from pipeline.proof.module_tolerance import default_module_tolerance, delta_kept
    from pipeline.proof.modules import ModuleProof

    proof = ModuleProof(folder.blueprint, folder.path)
    with run.bar("comparing modules", proof.bytes, unit="B") as bar:
        found = list(proof.figures(bar.advance))
    run.modules({one.name: one.recorded for one in found})
    run.metrics(
        {
            "modules": len(found),
            "module_error": max(one.error for one in found),
            "delta_kept": delta_kept(found),
        }
    )
    adapters = len(folder.blueprint.folds[-1].adapters)
    bounds = _asked(settings, default_module_tolerance(proof.dtypes, adapters))
    run.bounds({"module_error": bounds.max_module_error, "delta_kept": bounds.min_delta_kept})
    broken = {one.name: said for one in found if (said := bounds.broken_by(one))}
    lost = bounds.lost(found)
    run.note(module_table(found, most=10 if broken or lost else 3))
    return [
        *_some([f"{name}: {', '.join(said)}" for name, said in broken.items()], "modules"),
        *([f"{lost}: save in a wider dtype"] if lost else []),
    ]


def _compare_tensors(run: RunContext, folder: Folder) -> list[str]:
    """Tensors that are not what base and adapters make of them, and parts that do not fit, in words."""
    from pipeline.proof.findings import Findings
    from pipeline.proof.origins import check_origins
    from pipeline.proof.structure import check_structure
    from pipeline.receipt.record import read_receipt

    found = Findings()
    check_structure(folder.path, found)
    with found.refusals():
        saved = read_receipt(folder.path).saved
        size = sum(file.stat().st_size for file in folder.path.glob("*.safetensors"))
        if run.recipe.engine == "live":
            found.skipped.append(
                "the bits of the tensors: `engine: live` may have made them on a GPU, whose sums are others"
            )
        else:
            with run.bar("comparing tensors", size, unit="B") as bar:
                check_origins(folder.path, folder.blueprint, saved.dtype, bar.advance, found)
    for text in found.checked:
        run.note(f"checked {text}")
    for text in found.skipped:
        run.note(f"not checked: {text}")
    return _some([f"{fault.where} {fault.what}" for fault in found.faults], "things")


def _some(said: Sequence[str], what: str) -> list[str]:
    more = len(said) - _NAMED
    return [*said[:_NAMED], *([f"and {more} more {what}"] if more > 0 else [])]


def _asked(settings: VerifySettings, default: B) -> B:
    """The default bounds, with what the recipe says in place of them."""
    names = {one.name for one in fields(default)} & {one.name for one in fields(settings)}
    asked = {name: getattr(settings, name) for name in names}
    return replace(default, **{name: bound for name, bound in asked.items() if bound != "auto"})
