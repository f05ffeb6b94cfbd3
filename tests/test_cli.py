"""The command as people call it: exit codes, what is printed where, and what is imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import LoraConfig

from pipeline.manifest import read_manifest
from tests.conftest import BuildBase
from tests.fixtures.models import build_adapter

Run = Callable[..., subprocess.CompletedProcess[str]]

BAD = "seed: x\nsteps:\n  - load_base: {modle: y}\n  - save: {dtype: float17}\n"
HEAVY = ("torch", "transformers", "peft", "bitsandbytes")


@pytest.fixture
def mergeline(tmp_path: Path) -> Run:
    """Run `mergeline` in a process of its own, in an empty folder."""

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "OMP_NUM_THREADS": "1",
                **more,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture
def model(tmp_path: Path, base_model: BuildBase) -> list[str]:
    """A tiny base and an adapter for it, as overrides of the shipped recipes."""
    base = base_model("llama")
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapter = build_adapter(tmp_path / "adapter", base, config)
    return [f"params.base={base}", f"params.adapter={adapter}"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--help"], "run RECIPE"),
        (["--version"], "mergeline 0."),
        (["recipes"], "merge_qlora"),
        (["steps"], "attach_adapter"),
        (["steps", "load_base"], "trust_remote_code"),
        (["schema"], '"Mergeline recipe"'),
        (["schema", "manifest"], "recipe_blake3"),
        (["completion", "bash"], "complete -o nospace"),
        (["run", "-sc", "install=bash"], "complete -o nospace"),
        (["run", "--help"], "hydra.run.dir=DIR"),
        (
            ["run", "merge_qlora", "--cfg", "job", "--resolve", "load_base=int8"],
            "quantization: int8",
        ),
        (
            ["run", "merge_qlora", "--cfg", "all", "--resolve"],
            "    dir: outputs/merge_qlora/",
        ),
        (
            ["run", "--cfg", "job", "save.dtype=float16", "-p", "steps.save", "merge_qlora"],
            "dtype: float16",
        ),
        (["run", "merge_qlora", "--info", "defaults-tree"], "step/load_base@steps.load_base: nf4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_only_tells_ends_well(mergeline: Run, words: list[str], told: str) -> None:
    done = mergeline(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert told in done.stdout


def test_a_wrong_recipe_ends_with_2_and_all_its_mistakes(mergeline: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    for verb in ("plan", "run"):
        done = mergeline(verb, "bad.yaml", "save.dtpye=3")
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        assert [line.split(": ")[0] for line in lines if not line.startswith(" ")] == [
            "bad.yaml:1:1",
            "bad.yaml:3:5",
            "bad.yaml:3:17",
            "bad.yaml:4:12",
            "command line",
            "5 problems; nothing was run",
        ]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "rnu",
        "run",
        "plan",
        "run merge_qlora --bogus",
        "run nope",
        "run ./nope.yaml",
        "steps nope",
        "schema nope",
        "run merge_qlora -m --cfg job",
        "run merge_qlora --resolve",
        "plan merge_qlora save",
        "new ../x",
        "run merge_qlora hydra.run.dir=/proc/nowhere",
    ],
)
def test_wrong_arguments_end_with_2_and_no_traceback(mergeline: Run, words: str) -> None:
    done = mergeline(*words.split())
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_comes_from(mergeline: Run) -> None:
    done = mergeline("plan", "merge_qlora", "save.dtype=x", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_what_is_not_a_run_cannot_be_shown(mergeline: Run, tmp_path: Path) -> None:
    done = mergeline("show", str(tmp_path))
    assert done.returncode == 1
    assert "there is no run in this folder" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["recipes"],
        ["steps"],
        ["steps", "train_adapter"],
        ["schema"],
        ["plan", "bad.yaml"],
        ["run", "bad.yaml"],
        ["run", "merge_qlora", "--cfg", "job", "--resolve"],
    ],
    ids=" ".join,
)
def test_what_only_reads_imports_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    code = (
        "import sys\nfrom pipeline.cli import main\n"
        f"main({words!r})\nprint(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_has_enough_is_no_error_to_speak_of(tmp_path: Path) -> None:
    ask = f"'{sys.executable}' -m pipeline schema | head -1"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", ask], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize(
    ("words", "redirected", "code"),
    [
        ("recipes", "| true", 141),
        ("run nope", "2>&1 >/dev/null | true", 2),
        ("run merge_qlora --info", "| true", 141),
        ("recipes", ">&-", 0),
        ("run nope", "2>&-", 2),
        ("schema", ">/dev/full", 1),
    ],
)
def test_the_exit_code_is_right_when_nobody_can_read_what_is_said(
    tmp_path: Path, words: str, redirected: str, code: int
) -> None:
    ask = f"'{sys.executable}' -m pipeline {words} {redirected}; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", ask], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "fault in Mergeline" not in done.stderr


def test_text_that_the_terminal_cannot_show_is_escaped(mergeline: Run, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("tags: [ü]\nsteps:\n  - load_base: {model: x}\n", "utf-8")
    done = mergeline("run", "r.yaml", "--cfg", "job", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "- \\xfc" in done.stdout


def test_arguments_that_are_no_text_are_refused(mergeline: Run) -> None:
    done = mergeline("run", "recast", os.fsdecode(b"hydra.run.dir=\xff"))
    assert done.returncode == 2
    assert "is not text" in done.stderr


def test_a_recipe_that_cannot_be_shown_resolved_says_where_it_is_wrong(
    mergeline: Run, tmp_path: Path
) -> None:
    text = "params: {base: x}\nsteps:\n  - load_base: {model: '${params.bsae}'}\n"
    (tmp_path / "r.yaml").write_text(text)
    done = mergeline("run", "r.yaml", "--cfg", "job", "--resolve")
    assert done.returncode == 2
    assert "r.yaml:3:17: load_base.model: ${params.bsae} names nothing" in done.stderr


def test_secrets_are_not_printed_with_mistakes_or_by_hydra(mergeline: Run, tmp_path: Path) -> None:
    secret = "hf_" + "abcdefgh" * 3
    (tmp_path / "r.yaml").write_text(f"params: {{x: {secret}}}\nsteps:\n  - load_base: nf4\n")
    wrong = mergeline("run", "r.yaml", f"load_base.dtype={secret}")
    assert "must be one of auto" in wrong.stderr
    shown = mergeline("run", "r.yaml", "--info", "config")
    assert "x: '[hidden]'" in shown.stdout or "x: [hidden]" in shown.stdout
    assert secret not in wrong.stderr + shown.stdout


def test_new_writes_a_recipe_once(mergeline: Run, tmp_path: Path) -> None:
    (tmp_path / "recipes").write_text("a file")
    assert "cannot be written" in mergeline("new", "mine").stderr
    (tmp_path / "recipes").unlink()
    assert mergeline("new", "mine").returncode == 0
    assert mergeline("new", "mine").returncode == 2
    assert "mine" in mergeline("recipes").stdout
    assert (tmp_path / "recipes/recipe.schema.json").is_file()


def test_a_run_from_the_shipped_recipe_to_its_table(
    mergeline: Run, tmp_path: Path, model: list[str]
) -> None:
    plan = mergeline("plan", "merge_lora", *model, "--json")
    assert plan.returncode == 0, plan.stderr
    assert [step["step"] for step in json.loads(plan.stdout)["steps"]][:2] == [
        "load_base",
        "attach_adapter",
    ]
    assert not (tmp_path / "outputs").exists()

    done = mergeline("run", "merge_lora", *model, "~verify", "save.dtype=float32", "--quiet")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs/merge_lora").iterdir()
    assert done.stdout == f"{folder}\n"
    record = read_manifest(folder)
    assert (record.status, record.overrides) == ("done", [*model, "~verify", "save.dtype=float32"])
    assert folder.name.endswith(record.fingerprint[:8])
    assert (folder / "merged/config.json").is_file()
    assert "merge_lora" in mergeline("show", str(folder)).stdout
    assert mergeline("report", str(folder)).stdout == f"{folder / 'report.html'}\n"
    assert mergeline("report", str(folder), "-o", "page.html").stdout == "page.html\n"
    assert (tmp_path / "page.html").read_text() == (folder / "report.html").read_text()


def test_a_run_that_fails_ends_with_1(mergeline: Run, tmp_path: Path, model: list[str]) -> None:
    overrides = ["attach_adapter.weight=1e9", "save.dtype=float16", "~verify", "hydra.run.dir=out"]
    done = mergeline("run", "merge_lora", *model, *overrides, "--quiet")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert read_manifest(tmp_path / "out").status == "failed"


def test_a_job_that_fails_takes_no_other_down(
    mergeline: Run, tmp_path: Path, model: list[str]
) -> None:
    overrides = [
        "attach_adapter.weight=1.0,1e9,0.5",
        "save.dtype=float16",
        "~verify",
        "hydra.sweep.dir=sweep",
    ]
    done = mergeline("run", "merge_lora", "-m", *model, *overrides)
    assert done.returncode == 1, done.stderr
    assert "3 jobs: 2 done, 1 failed" in done.stdout
    records = [
        read_manifest(next((tmp_path / "sweep").glob(f"{weight}-*")))
        for weight in ("1.0", "1000000000.0", "0.5")
    ]
    assert [record.status for record in records] == ["done", "failed", "done"]
    assert records[2].overrides[2] == "attach_adapter.weight=0.5"

    page = (tmp_path / "sweep/report.html").read_text()
    assert "1 of 3 jobs failed" in page
    assert all(f'href="{Path(record.run_dir).name}/report.html"' in page for record in records)
    assert mergeline("report", "sweep").stdout == "sweep/report.html\n"
    assert (tmp_path / "sweep/report.html").read_text() == page
    runs = [record.run_dir for record in records[::2]]
    assert mergeline("report", *runs).stdout == "side_by_side.html\n"
    assert "attach_adapter.weight" in (tmp_path / "side_by_side.html").read_text()


def _is_saving(folder: Path) -> bool:
    return (folder / "manifest.json").is_file() and any(
        step.id == "save" and step.status == "running" for step in read_manifest(folder).steps
    )


def test_ctrl_c_ends_with_130_and_a_manifest_that_says_so(tmp_path: Path, model: list[str]) -> None:
    words = ["run", "merge_lora", *model, "hydra.run.dir=out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not _is_saving(tmp_path / "out") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert read_manifest(tmp_path / "out").status == "interrupted"


def test_diff_tells_by_its_exit_code_whether_two_checkpoints_differ(
    mergeline: Run, model: list[str]
) -> None:
    base = model[0].partition("=")[2]
    mergeline("run", "merge_lora", *model, "save.path=merged")

    same = mergeline("diff", base, base)
    other = mergeline("diff", base, "merged")
    wrong = mergeline("diff", base, "./nowhere")

    assert (same.returncode, other.returncode, wrong.returncode) == (0, 1, 2)
    assert "all equal" in same.stdout
    assert "model.layers.*.mlp.up_proj.weight" in other.stdout
    assert "14 changed" in other.stdout
    assert "nowhere: there is no such folder" in wrong.stderr


def test_diff_as_json_has_every_tensor(mergeline: Run, model: list[str]) -> None:
    base = model[0].partition("=")[2]
    mergeline("run", "merge_lora", *model, "save.path=merged")

    found = json.loads(mergeline("diff", base, "merged", "--json").stdout)

    ranks = {one["tensor"]: one.get("rank") for one in found["tensors"] if one["status"] != "equal"}
    assert found["equal"] is False
    assert len(ranks) == 14
    assert set(ranks.values()) == {4}, "the rank of the adapter"


def test_a_saved_folder_is_verified_and_made_again_by_its_receipt(
    mergeline: Run, model: list[str], tmp_path: Path
) -> None:
    mergeline("run", "merge_lora", *model, "save.path=merged")

    whole = mergeline("verify", "merged")
    again = mergeline("replay", "merged")
    (tmp_path / "merged" / "config.json").write_text("{}")
    broken = mergeline("verify", "merged", "--json")
    nothing = mergeline("replay", ".")

    assert (whole.returncode, again.returncode) == (0, 0)
    assert whole.stdout.endswith("all that was checked holds\n")
    assert again.stdout.endswith("the same bytes\n")
    assert (broken.returncode, nothing.returncode) == (1, 2)
    assert "config.json" in {fault["where"] for fault in json.loads(broken.stdout)["faults"]}
    assert "has no receipt" in nothing.stderr
