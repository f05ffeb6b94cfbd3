"""What is installed from a wheel works on its own, from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.models import build_base

ROOT = Path(__file__).parents[1]
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "pipeline", "conf", "recipes"]


@dataclass(frozen=True)
class Installed:
    """Mergeline in an environment of its own."""

    bin: Path

    def __call__(self, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        return subprocess.run(
            [self.bin / str(arguments[0]), *map(str, arguments[1:])],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sources alone, by way of the source distribution."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, sources / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, sources],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an empty environment.

    Its dependencies, gigabytes of them, are lent by the environment that runs the tests through a
    `.pth` file. Such a file adds one folder and does not follow the `.pth` files in there, so that
    the editable installation of this checkout stays out of sight.
    """
    home = tmp_path_factory.mktemp("empty environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python"]
    install = ["install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", wheel]
    subprocess.run([*pip, *install], check=True, timeout=120)
    return Installed(home / "bin")


def test_the_wheel_holds_the_package_its_configuration_and_its_recipes(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    for folder in ("conf", "recipes"):
        files = [p for p in (ROOT / folder).rglob("*") if p.suffix in {".yaml", ".json"}]
        assert files
        assert {f"pipeline/_data/{p.relative_to(ROOT)}" for p in files} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pipeline"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_package_is_the_one_of_the_wheel(
    installed: Installed, tmp_path: Path
) -> None:
    done = installed("python", "-c", "import pipeline; print(pipeline.__file__)", cwd=tmp_path)

    assert Path(done.stdout.strip()).is_relative_to(installed.bin.parent), done.stderr


def test_the_command_lists_the_shipped_recipes_from_another_folder(
    installed: Installed, tmp_path: Path
) -> None:
    done = installed("mergeline", "recipes", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert recipe.stem in done.stdout


def test_a_shipped_recipe_runs_from_another_folder(installed: Installed, tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", "llama")

    done = installed("mergeline", "run", "recast", f"params.base={base}", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    saved = list(tmp_path.glob("outputs/recast/*/model/model.safetensors"))
    assert len(saved) == 1
    assert len(list(tmp_path.glob("outputs/recast/*/report.html"))) == 1
    assert "done" in done.stdout


def test_a_mistake_in_the_arguments_is_told_by_the_installed_command_too(
    installed: Installed, tmp_path: Path
) -> None:
    done = installed("mergeline", "plan", "recast", "save.dtyp=float16", cwd=tmp_path)

    assert done.returncode == 2
    assert "did you mean 'dtype'?" in done.stderr
    assert "Traceback" not in done.stderr
