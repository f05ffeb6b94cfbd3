"""`verify`: is the saved model the one that was trained?"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.blueprint import Folder, State
from pipeline.errors import Refused
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
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


@step(needs=["base"])
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
