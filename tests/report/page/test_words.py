"""How figures are called: every one that a step records has words."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import jobs
from pipeline.recipe.hydra_app import Request
from pipeline.report.page.words import amount, better, has_words, label
from tests.conftest import BuildBase

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kl", "KL divergence, nats"),
        ("base.loss", "base: loss, nats a token"),
        ("arc_easy.acc", "arc_easy: right choices"),
        ("some_task.f1_score", "some task.f1 score"),
    ],
)
def test_a_figure_is_called_by_its_words(name: str, said: str) -> None:
    assert label(name) == said


def test_figures_are_written_in_their_units() -> None:
    assert amount("save.bytes", 1_600_000_000) == "1.6 GB"
    assert amount("verify.error", 0.0083) == "0.83 %"
    assert amount("train_adapter.seconds", 83.2) == "1 min 23 s"
    assert amount("verify.positions", 5020) == "5 020"


def test_the_base_is_no_better_than_itself() -> None:
    assert (better("evaluate.loss"), better("evaluate.acc")) == ("low", "high")
    assert better("evaluate.base.loss") == better("verify.positions") == ""


def test_every_figure_of_a_life_from_training_to_the_proof_has_words(
    tmp_path: Path, base_model: BuildBase
) -> None:
    lines = {
        "texts": {"text": "the quick brown fox jumps over the lazy dog"},
        "choices": {"question": "the quick brown", "choices": ["fox", "dog"], "answer": "fox"},
        "answers": {"prompt": "the quick brown", "answer": "fox"},
    }
    for name, line in lines.items():
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(line)}\n" * 4)
    recipe = tmp_path / "life.yaml"
    recipe.write_text(
        f"""
steps:
  - load_base: {{model: {base_model("llama")}}}
  - train_adapter: {{data: {tmp_path}/texts.jsonl, path: "${{run.dir}}/adapter", steps: 2}}
  - save_adapter: {{path: "${{run.dir}}/copy"}}
  - evaluate: {{id: texts, data: {tmp_path}/texts.jsonl, compare: base}}
  - evaluate: {{id: choices, data: {tmp_path}/choices.jsonl}}
  - evaluate: {{id: answers, data: {tmp_path}/answers.jsonl, max_new_tokens: 2}}
  - merge
  - save: {{path: "${{run.dir}}/merged"}}
  - verify: {{max_error: null, max_kl: null, min_top1: null, min_kept: null, prompts: [the quick fox]}}
"""
    )

    record = jobs.run_one(Request(recipe, (f"hydra.run.dir={tmp_path}/run",)), quiet=True)

    assert record.status == "done", record.error
    assert len(record.metrics) > 30
    assert {name for name in record.metrics if not has_words(name)} == set()


def _recorded() -> Iterator[str]:
    """The names that calls of `run.metrics` give, where they stand in the call itself."""
    for file in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "metrics"
                and node.args
                and isinstance(node.args[0], ast.Dict)
            ):
                for key in node.args[0].keys:
                    if isinstance(key, ast.Constant):
                        yield str(key.value)


def test_every_figure_that_a_step_names_has_words() -> None:
    names = set(_recorded())

    assert {"kl", "bytes", "train_loss"} < names
    assert {name for name in names if not has_words(name)} == set()
