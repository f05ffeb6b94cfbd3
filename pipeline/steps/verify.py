"""`verify`: is the saved model the one that was trained?"""

from __future__ import annotations

from dataclasses import field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.blueprint import Folder, State
from pipeline.errors import Refused, VerificationError
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.proof.clean import Answers
    from pipeline.proof.reference import Reference
    from pipeline.proof.tolerance import Tolerance
    from pipeline.run import RunContext

Bound = Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
Share = Literal["auto"] | Annotated[float, Field(ge=0, le=1)] | None


@step_settings
class VerifySettings:
    folder: str | None = None
    """The saved model; by default the one that the recipe saved last. Another folder is held against the
    model as it stands at this point."""
    prompts: list[str] = field(default_factory=list)
    """Texts on which to compare; by default some that exercise tokenizer and model."""
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


@step(needs=["base"], live=True)
def verify(settings: VerifySettings, state: State) -> State:
    """Compare a saved model with the base and adapters as they were trained; fail if it differs.

    The saved folder is loaded from disk in a separate process that cannot import peft: what is
    measured is what a server of it would give. A bound of `auto` follows the dtype that was saved
    and how the base was quantized (proof/tolerance.py has the figures and why); `null` leaves a
    bound unchecked.
    """
    folder = _folder(settings, state)
    known = any(folder.path == other.path for other in state.folders)
    if not known and not (folder.path / "config.json").is_file():
        raise Refused(
            f"{folder.path} holds no model (it has no config.json)",
            fix="name a folder that `save` wrote, or leave `folder` out",
            key="folder",
        )
    return state


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
    path = Path(settings.folder)
    for folder in reversed(state.folders):
        if folder.path == path and folder.kind == "model":
            return folder
    assert state.blueprint is not None
    return Folder(path, state.blueprint)


@verify.act
def _(settings: VerifySettings, run: RunContext) -> None:
    from pipeline.proof.clean import ask
    from pipeline.proof.compare import compare
    from pipeline.proof.reference import listen
    from pipeline.proof.tolerance import default_tolerance
    from pipeline.receipt.record import FILE_NAME, Proof, add_proof

    folder = _folder(settings, run.state)
    trained, request = listen(run, folder, settings.prompts)
    with run.bar("loading the saved model alone", 1) as bar:
        saved = ask(request, run.dir)
        bar.advance()
    _check_comparable(trained, saved, folder.path)
    default = default_tolerance((trained.dtype, saved.dtype), trained.quantization, trained.layers)
    found = compare(trained.logits, saved.logits, near=default.max_error or 0.0)
    kept = None
    if trained.without_adapters is not None:
        effect = compare(trained.logits, trained.without_adapters)
        kept = max(0.0, 1 - found.error / effect.error) if effect.error else None
    run.metrics(
        {
            "error": found.error,
            "kl": found.kl,
            "top1": found.top1,
            "max_diff": found.max_diff,
            "kept": kept,
            "positions": found.positions,
        }
    )
    run.note(
        f"{folder.path.name} against the trained model, {found.positions} positions: error "
        f"{found.error:.2%}, KL {found.kl:.2g}, top-1 {found.top1:.1%}"
        + ("" if kept is None else f", {kept:.1%} of the adapters' effect kept")
    )
    outside = _bounds(settings, default).broken_by(found, kept)
    proof = Proof(step=run.step_id, passed=not outside, figures=dict(run.record.metrics))
    if folder in run.state.folders and add_proof(folder.path, proof):
        run.made(folder.path / FILE_NAME)
    if outside:
        prompt, position = found.worst
        raise VerificationError(
            f"it is not the model that was trained: {'; '.join(outside)}. Worst at position {position} of "
            f"the prompt {trained.texts[prompt][:60]!r}",
            where=folder.path,
            fix="look at the steps between `attach_adapter` and `save`; widen a bound only when you know why",
        )


def _check_comparable(trained: Reference, saved: Answers, where: Path) -> None:
    """Raise VerificationError when the two do not even read and predict the same things."""
    if saved.token_ids != trained.token_ids:
        raise VerificationError(
            "its tokenizer reads the prompts otherwise than the one of the trained model",
            where=where,
            fix="save the folder again with `save`, which brings the right tokenizer",
        )
    shapes = [
        (tuple(a.shape), tuple(b.shape)) for a, b in zip(trained.logits, saved.logits, strict=True)
    ]
    if (other := next(((a, b) for a, b in shapes if a != b), None)) is not None:
        raise VerificationError(
            f"it predicts {other[1]} values (positions, classes), the trained model {other[0]}",
            where=where,
            fix="the vocabulary or the head differs: check which base and adapter it was made from",
        )


def _bounds(settings: VerifySettings, default: Tolerance) -> Tolerance:
    """The defaults, with what the recipe says in place of them."""
    asked = {field.name: getattr(settings, field.name) for field in fields(default)}
    return replace(default, **{name: bound for name, bound in asked.items() if bound != "auto"})
