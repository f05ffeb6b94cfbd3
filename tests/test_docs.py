"""The pages tell the truth: their links, recipes, commands and printed output, and the example step."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline import cli
from pipeline.arguments import add_recipe_arguments, request_of
from pipeline.errors import RecipeError
from pipeline.manifest import Manifest
from pipeline.plan import make_plan
from pipeline.proof import harness
from pipeline.recipe import load
from pipeline.recipe.grid import jobs_of
from pipeline.recipe.hydra_app import Request
from pipeline.recipe.model import Recipe
from pipeline.recipe.schema import recipe_schema
from pipeline.report.plan_table import print_plan
from pipeline.report.steps_page import steps_page
from pipeline.sweep.ledger import Ledger, Listed, SweepLine
from tests.fixtures.folders import make_adapter, make_base

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BASES = ("base", "my_base", "outputs/demo/base")
ADAPTERS = (
    "adapters/french",
    "adapters/pirate",
    "adapter",
    "my_adapter",
    "style",
    "facts",
    "outputs/demo/train/adapter",
)
STAND_INS = {"base": "./base", "adapter": "./adapter", "first": "./style", "second": "./facts"}
"""For the parameters of shipped recipes, which name models on the Hub."""


@dataclass(frozen=True)
class Block:
    """A fenced piece of a page."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that its first line names: `# wrong.yaml`, `# conf/step/save/half.yaml - ...`."""
        named = re.match(r"# ([\w./-]+\.(?:yaml|py))(?: - .*)?\n", self.text)
        return named[1] if named else None


def blocks(*kinds: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1], match[2]))
    return [block for block in found if block.kind in kinds]


def commands() -> Iterator[tuple[Path, str, str | None]]:
    """Page, command, and the output that is printed below it."""
    for block in blocks("sh"):
        for line in block.text.splitlines():
            yield block.page, line, None
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield block.page, command, output
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for command in re.findall(r"`(mergeline\s[^`]+)`", prose):
            yield page, " ".join(command.split()), None


def name_of(case: object) -> str | None:
    """How a case is called in the report."""
    if isinstance(case, Block):
        return f"{case.page.name}:{case.line}"
    return case.name if isinstance(case, Path) else None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader tries the pages: the files that they speak of, and stand-ins for models and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in BASES:
        make_base(tmp_path / name)
    for name in ADAPTERS:
        make_adapter(tmp_path / name)
    (tmp_path / "outputs/demo/data").mkdir()
    for name in ("train.jsonl", "held_out.jsonl", "outputs/demo/data/held_out.jsonl"):
        (tmp_path / name).write_text('{"text": "Once upon a time."}\n', encoding="utf-8")
    for block in blocks("csv", "jsonl"):
        (tmp_path / f"jobs.{block.kind}").write_text(block.text, encoding="utf-8")
    for block in blocks("yaml"):
        if block.file:
            file = tmp_path / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT) for page in PAGES if page.parent.name != "decisions"]
    assert [str(p) for p in pages if p.name != "README.md" and f"]({p})" not in readme] == []


def recipes() -> list[Block]:
    """All but presets, which the commands below them use."""
    return [block for block in blocks("yaml") if not (block.file or "").startswith("conf/")]


@pytest.mark.parametrize("block", recipes(), ids=name_of)
def test_recipes_can_be_planned(block: Block, folder: Path) -> None:
    if "lm_eval:" in block.text and harness.missing():
        pytest.skip("lm_eval is not installed (pip install '.[lm_eval]')")
    data, text = yaml.safe_load(block.text), block.text
    if isinstance(data, list):  # some steps, which need a model if they do not bring one
        alone = {"load_base"} & {next(iter(item)) for item in data if isinstance(item, dict)}
        text = f"steps:\n{'' if alone else '- load_base: {model: ./base}' + chr(10)}{text}"
    (folder / "tried.yaml").write_text(text, encoding="utf-8")
    if block.file and block.file.startswith("wrong"):
        with pytest.raises(RecipeError):
            load("tried.yaml")
        return
    jsonschema.validate(yaml.safe_load(text), recipe_schema())
    make_plan(with_stand_ins(Request(folder / "tried.yaml", (), None)))


def with_stand_ins(request: Request) -> Recipe:
    """Load a recipe with local folders in place of the parameters that the request leaves as they are."""
    recipe = request.load()[0]
    said = {override.partition("=")[0] for override in request.overrides}
    changed = [
        f"params.{name}={STAND_INS.get(name, './train.jsonl')}"
        for name, value in recipe.params.items()
        if isinstance(value, str) and f"params.{name}" not in said
    ]
    return replace(request, overrides=(*request.overrides, *changed)).load()[0]


def test_the_readmes_recipe_is_the_shipped_one() -> None:
    shipped = (ROOT / "recipes" / "merge_qlora.yaml").read_text(encoding="utf-8")
    first = next(block for block in blocks("yaml") if block.page.name == "README.md")
    assert shipped.endswith(f"\n{first.text}")


@pytest.mark.parametrize(("page", "command", "output"), list(commands()), ids=name_of)
def test_commands_work(
    page: Path, command: str, output: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.partition(" > ")[0], comments=True)
    if not words:
        return
    if words[0] == "make":
        assert f"\n{words[1]}: " in (ROOT / "Makefile").read_text(encoding="utf-8")
    elif words[0] == "pip":
        extras = re.findall(r"\[(\w+)\]", words[-1])
        described = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(f"\n{extra} = [" in described for extra in extras)
    else:
        assert words.pop(0) == "mergeline"
        assert words[0] in cli._VERBS or words[0] == "--help"
        works(words, output, folder, capsys)


def works(
    words: list[str], output: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Do what a command says, short of reading weights; compare what it prints where that is always so."""
    verb, *arguments = ["save" if word == "NAME" else word for word in words]
    wrong = any(word.startswith("wrong") for word in arguments)
    if verb in ("run", "plan") and not wrong and not {"--cfg", "--info"} & set(arguments):
        for request in requests(arguments):
            print_plan(make_plan(with_stand_ins(request)))
        return
    if verb == "demo":  # tests/test_demo.py runs it
        assert not arguments
        return
    if verb in ("verify", "replay"):  # tests/proof/test_folder.py and tests/test_replay.py run them
        with pytest.raises(SystemExit):
            cli.main([verb, "--help"])
        known = capsys.readouterr().out
        assert all(word in known for word in arguments if word.startswith("-"))
        return
    if verb == "diff":
        arguments = [word if word.startswith("-") else "./base" for word in arguments]
    if verb == "sweep":
        if not arguments:  # in prose, the verb alone
            return
        if "--status" in arguments:
            a_sweep(folder / arguments[-1])
        else:
            arguments.append("--plan")
    if verb in ("show", "report"):
        for run in arguments:
            a_run(folder / run)
    assert cli.main([verb, *arguments]) == (cli.WRONG if wrong else cli.DONE)
    if output is not None and verb in ("recipes", "steps", "plan"):
        printed = capsys.readouterr()
        assert stripped(printed.out + printed.err) == stripped(output)


def a_sweep(sweep_dir: Path) -> None:
    """The folder of a sweep that has just begun."""
    sweep_dir.mkdir()
    job = Listed(job="0" * 64, overrides=["save.dtype=float16"], folder="float16")
    Ledger(sweep_dir).append(SweepLine(status="running", recipe="merge_lora", jobs=[job]))


def a_run(run_dir: Path) -> None:
    """The folder of a run that has just begun."""
    run_dir.mkdir(parents=True)
    Manifest(
        recipe="merge_qlora",
        recipe_file="merge_qlora.yaml",
        recipe_blake3="0" * 64,
        run_dir=str(run_dir),
        started=datetime.now(UTC),
        fingerprint="0" * 64,
        engine="live",
    ).write()


def requests(arguments: list[str]) -> list[Request]:
    """The runs that a `run` or `plan` command asks for."""
    if not arguments:  # in prose, the verb alone
        return []
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    parser.add_argument("-m", action="store_true")
    args = parser.parse_intermixed_args(arguments)
    request = request_of(args)
    if not args.m:
        return [request]
    return [replace(request, overrides=job.overrides) for job in jobs_of(request)]


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_reference_of_the_steps_is_current() -> None:
    """When a step has changed: `make docs`."""
    assert (ROOT / "docs" / "steps.md").read_text(encoding="utf-8") == steps_page()


@pytest.mark.slow
def test_the_example_step_is_all_that_a_new_step_takes(tmp_path: Path) -> None:
    for name in ("pipeline", "conf", "recipes", "tests/fixtures"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "steps").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py", "tests/steps/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    files = [block for block in blocks("python") if block.file]
    assert [block.file for block in files] == [
        "pipeline/steps/list_tensors.py",
        "tests/steps/test_list_tensors.py",
    ]
    for block in files:
        assert block.file
        (tmp_path / block.file).write_text(block.text, encoding="utf-8")

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "2 passed" in python("pytest", "-q", "tests/steps/test_list_tensors.py")
    assert "List only tensors in whose name" in python("pipeline", "steps", "list_tensors")
    python("ruff", "check", *(str(block.file) for block in files))
    python("ruff", "format", "--check", *(str(block.file) for block in files))
    python("mypy", "pipeline/steps/list_tensors.py")
