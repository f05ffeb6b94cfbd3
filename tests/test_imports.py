"""The directions of imports, and what must stay quick to import.

Reading a recipe, planning, and every command that only answers must not wait for torch.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import LoraConfig

from tests.conftest import BuildBase
from tests.fixtures.models import build_adapter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline"
FILES = sorted(PACKAGE.rglob("*.py"))

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}

ABOVE = {"plan", "run", "jobs", "sweep", "arguments", "cli", "demo", "folders", "replay", "report"}
"""Parts that put the others to use, and that none of those may know."""

FORBIDDEN = {
    "errors": {"blueprint", "checkpoint", "realise", "proof", "recipe", "steps", *ABOVE},
    "blueprint": {"checkpoint", "realise", "proof", "recipe", "steps", *ABOVE},
    "checkpoint": {"accounting", "realise", "proof", "recipe", "steps", *ABOVE},
    "accounting": {"realise", "proof", "recipe", "steps", *ABOVE},
    "realise": {"proof", "recipe", "steps", *ABOVE},
    "proof": {"recipe", "steps", *ABOVE},
    "steps": {"recipe", *ABOVE},
    "recipe": {"checkpoint", "realise", "proof", *ABOVE},
    "plan": {"realise", "proof", "run", "jobs", "sweep", "arguments", "cli", "demo"},
    "run": {"jobs", "sweep", "arguments", "cli", "demo", "report"},
    "jobs": {"sweep", "arguments", "cli", "demo"},
    "sweep": {"realise", "proof", "cli", "demo"},
    "report": {"realise", "proof", "run", "jobs", "sweep", "arguments", "cli", "demo"},
}


def part_of(file: Path) -> str:
    """`steps` for pipeline/steps/save.py, `plan` for pipeline/plan.py."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: Path, *, at_module_level: bool = False) -> Iterator[str]:
    """Full names that a file imports at run time; `if TYPE_CHECKING` is none."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if at_module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def top(name: str) -> str:
    return name.partition(".")[0]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file: Path) -> None:
    forbidden = FORBIDDEN.get(part_of(file), set())

    used = {name.split(".")[1] for name in imports(file) if name.startswith("pipeline.")}

    assert not used & forbidden


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_some_parts_know_hydra_and_peft(file: Path) -> None:
    libraries = {top(name) for name in imports(file)}

    if part_of(file) != "recipe":
        assert not libraries & {"hydra", "omegaconf"}
    if part_of(file) not in {"realise", "checkpoint"}:
        assert "peft" not in libraries


@pytest.mark.parametrize(
    "file", [f for f in FILES if part_of(f) == "steps" and f.stem != "__init__"], ids=name_of
)
def test_steps_do_not_import_each_other(file: Path) -> None:
    others = {f.stem for f in file.parent.glob("*.py")} - {"__init__"}

    used = {name.split(".")[2] for name in imports(file) if name.startswith("pipeline.steps.")}

    assert not used & others


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) != "realise"], ids=name_of)
def test_heavy_libraries_are_imported_inside_functions(file: Path) -> None:
    at_once = list(imports(file, at_module_level=True))

    assert not {top(name) for name in at_once} & HEAVY
    assert not [name for name in at_once if name.startswith("safetensors.torch")]


def python(code: str, *arguments: str) -> str:
    """What a program prints that runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_all_but_the_realisers_loads_no_heavy_library() -> None:
    modules = [
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for f in FILES
        if part_of(f) not in {"realise", "__main__"}
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        f"print(*sorted(set({sorted(HEAVY)}) & set(sys.modules)))"
    )

    assert python(code, *modules) == ""


def test_a_plain_merge_loads_nothing_that_it_does_not_need(
    tmp_path: Path, base_model: BuildBase
) -> None:
    base = base_model("llama")
    adapter = build_adapter(tmp_path / "adapter", base, LoraConfig(target_modules=["q_proj"]))
    told = [f"params.base={base}", f"params.adapter={adapter}", f"hydra.run.dir={tmp_path / 'run'}"]
    code = (
        "import sys\n"
        "from pipeline import cli\n"
        "cli.main(['run', 'merge_lora', '~verify', '--quiet', *sys.argv[1:]])\n"
        f"unwanted = {sorted(HEAVY)} + ['rich', 'pipeline.report.page.sweep', 'pipeline.steps.evaluate']\n"
        "print(*(name for name in unwanted if name in sys.modules))"
    )

    assert python(code, *told) == str(tmp_path / "run")
    assert (tmp_path / "run/merged/model.safetensors").is_file()


def test_steps_and_records_are_made_without_reading_their_source() -> None:
    code = (
        "import ast\n"
        "ast.parse = None\n"
        "from pipeline import manifest, steps\n"
        "print(len(steps.all_steps()) > 5)"
    )

    assert python(code) == "True"
