"""`evaluate`: how good the model is, in figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.blueprint import Blueprint, State
from pipeline.checkpoint.publish import write_atomic
from pipeline.data import read_records
from pipeline.errors import InputError, Refused
from pipeline.proof.figures import Figures, changes, doubts, joined, recorded, table
from pipeline.proof.harness import load_tasks, missing, run_tasks
from pipeline.proof.on_data import Way, check_chat, kind_for, on_data, window_of
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.run import RunContext


@step_settings
class EvaluateSettings:
    data: str | None = None
    """A .txt or .jsonl file. Fields of a line, the same kind in all: `text`; `prompt` and `completion`;
    `messages`; `input` and `target` (encoder-decoder models); `text` and `label` (classification);
    `question`, `choices` and `answer`; `prompt` and `answer`."""
    lm_eval: list[str] = field(default_factory=list)
    """Tasks of the lm-evaluation-harness, such as `[arc_easy, hellaswag]`. Needs
    `pip install 'mergeline[lm_eval]'`."""
    compare: Literal["base"] | None = None
    """Measure the base without adapters too, and tell the change."""
    window: Annotated[int, Field(ge=2)] | None = None
    """Tokens the model sees at once; by default its context length, for a `text` at most 2048. A longer
    `text` is measured in windows; a longer pair is cut off, a longer question refused."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Tokens from one window of a `text` to the next, by default half a window. Each token is predicted
    once, after at least `window` less `stride` others where the text has as many."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Examples in one forward pass. Changes memory and speed, not the result beyond rounding."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Measure only so many examples of the file and of each task."""
    chat: bool = False
    """Put each question or prompt into the tokenizer's chat template."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    """Most tokens to write for a `prompt` with an `answer`."""
    include_path: str | None = None
    """A folder with task files of your own for `lm_eval`. They can run code: name a folder you trust."""
    few_shot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples before each question of `lm_eval`, by default as each task says."""


@step(needs=["base"], live=True)
def evaluate(settings: EvaluateSettings, state: State) -> State:
    """Measure how good the model is, as it stands at this point.

    What a file's lines are decides what is measured (docs/evaluating.md has the formats):

    - texts, pairs, messages: `loss` (mean negative log-likelihood of a token, in nats), `perplexity` (its
      exponential) and `tokens`. Of a pair, or of messages, only the completion or the last answer counts;
    - `question`, `choices`, `answer`: `acc` and `acc_norm`, how often the right choice is the likeliest;
    - `prompt`, `answer`: `exact_match`, how often the model writes the answer;
    - `text`, `label`, with a classification model: `loss` and `accuracy`.

    Tasks of `lm_eval` give `<task>.<metric>`. With `compare: base` there are `base.<name>` and
    `change.<name>` too. Answers to questions and prompts go to `<step id>.jsonl` in the run's folder.
    """
    blueprint = state.blueprint
    assert blueprint is not None
    task = blueprint.base.task
    if task not in ("causal_lm", "seq2seq_lm", "image_text_to_text", "sequence_classification"):
        raise Refused(
            f"a model loaded for {task} cannot be measured on text",
            fix="remove this step, or choose another `task` in `load_base`",
        )
    if settings.data is None and not settings.lm_eval:
        raise Refused("there is nothing to measure with", fix="name a file as `data`", key="data")
    if settings.window and settings.stride and settings.stride >= settings.window:
        raise Refused(
            f"windows of {settings.window} tokens that are {settings.stride} apart would leave tokens "
            "without anything before them",
            fix="set `stride` below `window`",
            key="stride",
        )
    if settings.compare and not blueprint.all_adapters:
        raise Refused(
            "the model is the base: there is nothing to compare",
            fix="put this step after `attach_adapter`, or remove `compare`",
            key="compare",
            otherwise=state,
        )
    _check_lm_eval(settings, blueprint)
    _check_data(settings, state)
    return state


def _check_lm_eval(settings: EvaluateSettings, blueprint: Blueprint) -> None:
    if not settings.lm_eval:
        alone = next(
            (k for k in ("include_path", "few_shot") if getattr(settings, k) is not None), None
        )
        if alone:
            raise Refused(
                f"`{alone}` changes nothing without tasks",
                fix="name tasks as `lm_eval`, or remove it",
                key=alone,
            )
        return
    if blueprint.base.task not in ("causal_lm", "seq2seq_lm"):
        raise Refused(
            f"the harness cannot measure a model loaded for {blueprint.base.task}",
            fix="load the base with `task: causal_lm`, or remove `lm_eval`",
            key="lm_eval",
        )
    if settings.include_path is not None and not Path(settings.include_path).is_dir():
        raise Refused(
            f"there is no folder {settings.include_path}",
            fix="name the folder in which the task files lie",
            key="include_path",
        )
    if missing():
        raise Refused(
            "the lm-evaluation-harness is not installed",
            fix="pip install 'mergeline[lm_eval]'",
            key="lm_eval",
        )


def _check_data(settings: EvaluateSettings, state: State) -> None:
    assert state.blueprint is not None
    if settings.data is None or state.run_dir in Path(settings.data).parents:
        return  # an earlier step of this recipe may write it
    try:
        kind_for(read_records(Path(settings.data), settings.limit), state.blueprint.base.task)
    except InputError as error:
        raise Refused(
            f"{error.where}: {error.what}", fix=error.fix, key="data", otherwise=state
        ) from error


@evaluate.act
def _(settings: EvaluateSettings, run: RunContext) -> None:
    measure = _measuring(settings, run)
    this, base = measure(run.blueprint), None
    if settings.compare:
        base = measure(replace(run.blueprint, folds=(), adapters=()))
        if base.measured_on != this.measured_on:
            run.warn(
                "the base reads the data otherwise, so its figures cannot be compared: "
                f"{dict(base.measured_on)} against {dict(this.measured_on)}"
            )
        elif not any(changes(this, base).values()):
            run.warn("every figure is the base's: on this data, the adapters make no difference")
    for text in doubts("the model", this) + (doubts("the base", base) if base else []):
        run.warn(text)
    run.metrics(recorded(this, base))
    run.note(table(this, base))
    _write_answers(run, f"{run.step_id}.jsonl", this)
    if base is not None:
        _write_answers(run, f"{run.step_id}.base.jsonl", base)


def _measuring(settings: EvaluateSettings, run: RunContext) -> Callable[[Blueprint], Figures]:
    """A function that measures a model; data and tasks are read once for all models."""
    records, tasks = None, None
    if settings.data is not None:
        records = read_records(Path(settings.data), settings.limit)
        run.used(Path(settings.data))
    if settings.lm_eval:
        folder = None if settings.include_path is None else Path(settings.include_path)
        with run.bar("loading the harness's tasks", 1):
            tasks = load_tasks(
                settings.lm_eval, folder, few_shot=settings.few_shot, seed=run.recipe.seed
            )
        for file in sorted(folder.rglob("*") if folder else ()):
            if file.is_file():
                run.used(file)
    way = Way(**{field.name: getattr(settings, field.name) for field in fields(Way)})

    def measure(blueprint: Blueprint) -> Figures:
        live = run.live(blueprint)
        if settings.chat:
            check_chat(live, run)
        parts = []
        if records is not None:
            parts.append(on_data(records, live, run, way))
        if tasks is not None:
            with run.bar("asking the harness's questions", 1):
                found = run_tasks(
                    tasks,
                    live,
                    names=settings.lm_eval,
                    window=window_of(live, settings.window),
                    batch_size=settings.batch_size,
                    limit=settings.limit,
                    chat=settings.chat,
                )
            parts.append(found)
        return joined(parts)

    return measure


def _write_answers(run: RunContext, name: str, figures: Figures) -> None:
    if not figures.answers:
        return
    lines = [json.dumps(answer, ensure_ascii=False) for answer in figures.answers]
    write_atomic(run.dir / name, "\n".join(lines) + "\n")
    run.made(run.dir / name)
