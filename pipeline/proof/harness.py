"""Tasks of EleutherAI's lm-evaluation-harness, on a live model. The harness is an extra."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.proof.figures import Figures

if TYPE_CHECKING:
    from pipeline.realise.live import LiveModel

ROUNDS = 1000
"""Bootstrap rounds behind a standard error that has no formula."""


def missing() -> bool:
    """Whether the harness is not installed. Imports nothing."""
    return find_spec("lm_eval") is None


def load_tasks(
    names: Sequence[str], include_path: Path | None, *, few_shot: int | None, seed: int
) -> Any:
    """Tasks by name, with their data, which the harness may download.

    `include_path` is a folder with task files beside those of the harness. `few_shot` is how many
    solved examples stand before each question, except in tasks that say none themselves; by default
    as many as each task says. Raises InputError for names that nobody defines and tasks that cannot
    be loaded.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(include_path) if include_path else None)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise InputError(
            f"the harness knows no task {', '.join(map(repr, unknown))}",
            where="lm_eval",
            fix=_nearest(unknown, manager.all_tasks),
        )
    try:
        loaded = manager.load(list(names))
    except Exception as error:  # task files and data sets fail in ways of their own
        raise InputError(
            f"{', '.join(names)} cannot be loaded: {type(error).__name__}: {error}",
            where="lm_eval",
            fix="check the task's files, and that its data set is at hand or can be downloaded",
        ) from error
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise InputError(
            f"{', '.join(unsafe)} would run the code that the model writes",
            where="lm_eval",
            fix="leave it out, or run it with the harness itself, in a sandbox",
        )
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (few_shot is not None and own != 0):
            task.set_config(key="num_fewshot", value=few_shot or 0)
        task.set_fewshot_seed(seed=seed)
    return loaded


def run_tasks(
    tasks: Any,
    live: LiveModel,
    *,
    names: Sequence[str],
    window: int,
    batch_size: int,
    limit: int | None,
    chat: bool,
) -> Figures:
    """Measure a model on loaded tasks; figures are called `<task>.<metric>`.

    Standard errors are details, and so are the figures of a group's tasks where it has its own.
    """
    from lm_eval.evaluator import evaluate

    model = _model_class()(
        pretrained=live.model,
        tokenizer=live.tokenizer,
        backend="seq2seq" if live.blueprint.base.task == "seq2seq_lm" else "causal",
        batch_size=batch_size,
        max_length=window,
    )
    found = evaluate(
        lm=model,
        task_dict=tasks,
        limit=limit,
        bootstrap_iters=ROUNDS,
        log_samples=False,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    assert found is not None  # as it is in all processes but the first of several
    figures = {name: _figures(result) for name, result in found["results"].items()}
    parts = {part for name in names if figures.get(name) for part in _below(found, name)}
    values: dict[str, float] = {}
    details: dict[str, float] = {}
    for name, result in figures.items():
        for metric, value in result.items():
            told = values if name not in parts and "_stderr" not in metric else details
            told[f"{name}.{metric}"] = value
    asked = {name: n["effective"] for name, n in found["n-samples"].items()}
    examples = {
        f"{name}.examples": sum(asked.get(part, 0) for part in {name, *_below(found, name)})
        for name, result in figures.items()
        if result and name not in parts
    }
    return Figures(values, examples, details)


def _model_class() -> Any:
    """The harness's class for a model of transformers, without bars of its own on the terminal."""
    from lm_eval.models.huggingface import HFLM

    class Quiet(HFLM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

    return Quiet


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    """`acc` for the harness's `acc,none`, `exact_match.strict` for `exact_match,strict`."""
    return {
        key.removesuffix(",none").replace(",", "."): float(value)
        for key, value in result.items()
        if "," in key and isinstance(value, int | float)
    }


def _below(found: Mapping[str, Any], group: str) -> set[str]:
    """The tasks and groups that a group is made of; nothing for a task."""
    own = set(found["group_subtasks"].get(group, ())) - {group}
    return own.union(*(_below(found, name) for name in own))


def _nearest(unknown: Sequence[str], known: Sequence[str]) -> str:
    near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
    return (
        f"did you mean {' or '.join(map(repr, near))}?" if near else "`lm_eval ls tasks` lists them"
    )
