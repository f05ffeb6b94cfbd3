"""Tasks of the lm-evaluation-harness, on a task that lies in a folder here. Needs the extra `lm_eval`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.manifest import read_manifest
from pipeline.proof.harness import load_tasks, missing
from tests.fixtures.models import build_adapter
from tests.fixtures.session import Session

pytestmark = [
    pytest.mark.skipif(missing(), reason="lm_eval is not installed (pip install '.[lm_eval]')"),
    pytest.mark.filterwarnings("default"),  # those of the harness and its libraries are not ours
    pytest.mark.slow,
]

ROOT = Path(__file__).parents[2]

QUESTIONS = [
    {"question": f"How many legs has a {animal}?", "choices": ["Eight", "Four legs", "Six"]}
    | {"answer": place % 3}
    for place, animal in enumerate(["spider", "dog", "bee", "cat", "fly", "horse"])
]

LEGS = """
task: legs
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""

GROUP = """
group: animals
task: [legs, paws]
aggregate_metric_list: [{metric: acc}]
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tasks, in truth the same, and a group of both."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    file = folder / "legs.jsonl"
    file.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS), encoding="utf-8")
    legs = LEGS.format(file=file)
    (folder / "legs.yaml").write_text(legs, encoding="utf-8")
    (folder / "paws.yaml").write_text(legs.replace("task: legs", "task: paws"), encoding="utf-8")
    (folder / "animals.yaml").write_text(GROUP, encoding="utf-8")
    return folder


@pytest.fixture
def adapted(base_model: Callable[..., Path], tmp_path: Path) -> Session:
    """A session with a base and an adapter attached to it."""
    from peft import LoraConfig

    base = base_model("llama", dtype="float32")
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapter = build_adapter(tmp_path / "adapter", base, config, scale=0.3)
    session = Session(tmp_path / "run")
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(adapter))
    return session


def test_the_harness_finds_what_our_own_questions_find(adapted: Session, tasks: Path) -> None:
    """Attached, against the base, and merged: the same figures by two programs."""
    by_task: dict[str, Any] = {"lm_eval": ["legs"], "include_path": str(tasks)}
    by_file: dict[str, Any] = {"data": str(tasks / "legs.jsonl")}
    attached = adapted.do("evaluate", compare="base", **by_task, **by_file)
    found = attached.metrics
    for name in ("acc", "acc_norm"):
        for whose in ("", "base.", "change."):
            assert found[f"{whose}legs.{name}"] == pytest.approx(found[f"{whose}{name}"])
    assert found["legs.examples"] == len(QUESTIONS)
    assert 0 < found["legs.acc_stderr"] < 1
    assert "legs.acc_stderr" not in attached.notes[0]
    used = {Path(record.path).name for record in adapted.run.take_used()}
    assert used == {"legs.jsonl", "legs.yaml", "paws.yaml", "animals.yaml"}
    adapted.do("merge")
    merged = adapted.do("evaluate", **by_task).metrics
    assert merged["legs.acc_norm"] == found["legs.acc_norm"]


def test_of_a_group_the_parts_are_recorded_and_its_own_figure_told(
    adapted: Session, tasks: Path
) -> None:
    record = adapted.do(
        "evaluate", lm_eval=["animals"], include_path=str(tasks), limit=4, few_shot=1
    )
    found = record.metrics
    assert found["animals.acc"] == pytest.approx((found["legs.acc"] + found["paws.acc"]) / 2)
    assert found["animals.examples"] == 2 * 4
    assert "animals.acc" in record.notes[0]
    assert "legs.acc" not in record.notes[0]


RECIPE = """
steps:
  - load_base: {{model: {base}}}
  - evaluate: {{lm_eval: [legs], include_path: {tasks}}}
"""


def test_of_the_harness_nothing_but_its_figures_reaches_the_terminal(
    tasks: Path, base_model: Callable[..., Path], tmp_path: Path
) -> None:
    text = RECIPE.format(base=base_model("llama"), tasks=tasks)
    (tmp_path / "legs.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "legs.yaml", f"hydra.run.dir={tmp_path / 'out'}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("[2/2] evaluate: "))
    names = [line.split()[0] for line in lines[start + 1 :]]
    assert names == ["legs.acc", "legs.acc_norm", "legs.examples", "[2/2]"]
    assert "lm_eval" in read_manifest(tmp_path / "out").versions


def test_solved_examples_are_as_many_as_asked(tasks: Path) -> None:
    def shots(few_shot: int | None) -> int:
        loaded = load_tasks(["legs"], tasks, few_shot=few_shot, seed=0)
        return int(loaded["tasks"]["legs"].get_config("num_fewshot"))

    assert shots(None) == 0
    assert shots(2) == 2


def test_a_task_that_nobody_defines_is_named_with_a_near_one(tasks: Path) -> None:
    with pytest.raises(InputError, match="knows no task 'legz'") as caught:
        load_tasks(["legs", "legz"], tasks, few_shot=None, seed=0)
    assert caught.value.fix == "did you mean 'legs'?"


def test_a_task_without_its_data_is_named(tasks: Path) -> None:
    (tasks / "legs.jsonl").unlink()
    with pytest.raises(InputError, match="legs cannot be loaded"):
        load_tasks(["legs"], tasks, few_shot=None, seed=0)


def test_a_task_that_runs_what_the_model_writes_is_refused(tasks: Path) -> None:
    file = tasks / "legs.yaml"
    file.write_text(file.read_text(encoding="utf-8") + "unsafe_code: true\n", encoding="utf-8")
    with pytest.raises(InputError, match="legs would run the code"):
        load_tasks(["legs"], tasks, few_shot=None, seed=0)
