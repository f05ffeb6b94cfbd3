"""`generate`: let the model write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.blueprint import State
from pipeline.errors import InputError, Refused
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.run import RunContext


@step_settings
class GenerateSettings:
    prompts: Annotated[list[str], Field(min_length=1)]
    """What to continue or to answer, one text after the other."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Most tokens to write for each prompt."""
    do_sample: bool = False
    """Draw each token by its probability, with the recipe's seed, instead of taking the likeliest."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """With `do_sample`: below 1 keeps to likely tokens, above 1 spreads out."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `do_sample`: draw only among the likeliest tokens that have this much probability together."""
    chat: Literal["auto", "always", "never"] = "auto"
    """Put each prompt into the tokenizer's chat template; `auto` does when there is one."""
    system: str | None = None
    """With a chat template: the system message."""


@step(needs=["base"], live=True)
def generate(settings: GenerateSettings, state: State) -> State:
    """Write a text for each prompt, with the model as it stands at this point.

    Prompts and texts go to the terminal and, as JSON Lines, to `<step id>.jsonl` in the run's folder.
    """
    blueprint = state.blueprint
    assert blueprint is not None
    task = blueprint.base.task
    if task not in ("causal_lm", "seq2seq_lm", "image_text_to_text"):
        raise Refused(
            f"a model loaded for {task} does not write text",
            fix="remove this step, or load the base with `task: causal_lm` or `task: seq2seq_lm`",
        )
    if settings.system is not None and settings.chat == "never":
        raise Refused(
            "a system message needs the chat template, which `chat: never` turns off",
            fix="remove `system`, or set `chat: auto`",
            key="system",
        )
    if not settings.do_sample and (settings.temperature != 1.0 or settings.top_p != 1.0):
        key = "temperature" if settings.temperature != 1.0 else "top_p"
        raise Refused(
            f"`{key}` changes nothing while the likeliest token is taken",
            fix="add `do_sample: true`, or remove it",
            key=key,
        )
    return state


@generate.act
def _(settings: GenerateSettings, run: RunContext) -> None:
    import torch

    from pipeline.proof.write import Writer

    live = run.live()
    writer = Writer(live.model, live.tokenizer, run.blueprint.base.task)
    use_chat = settings.chat != "never" and writer.has_chat_template
    if settings.chat == "always" and not writer.has_chat_template:
        raise InputError(
            "the tokenizer has no chat template",
            where=f"{run.step_id}.chat",
            fix="set `chat: auto` to send the prompts as they are",
        )
    if settings.system is not None and not use_chat:
        run.warn("there is no chat template, so the system message is left out")
    torch.manual_seed(run.recipe.seed)
    path = run.dir / f"{run.step_id}.jsonl"
    with (
        run.bar("writing", len(settings.prompts)) as bar,
        path.open("w", encoding="utf-8") as lines,
    ):
        for prompt in settings.prompts:
            text, is_lost = writer.answer(
                writer.as_chat(prompt, settings.system) if use_chat else prompt,
                max_new_tokens=settings.max_new_tokens,
                sampling=_sampling(settings),
                is_chat=use_chat,
            )
            if is_lost:
                run.warn(f"the model gives NaN in place of predictions after {prompt!r}")
            lines.write(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
            run.note(f"{prompt}\n-> {text.strip()}")
            bar.advance()
    run.made(path)


def _sampling(settings: GenerateSettings) -> dict[str, float]:
    """Options of transformers' `generate`; empty for greedy."""
    if not settings.do_sample:
        return {}
    return {"temperature": settings.temperature, "top_p": settings.top_p}
