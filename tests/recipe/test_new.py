"""`mergeline new`: a recipe to start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import cli
from pipeline.errors import RecipeError
from pipeline.recipe import load
from pipeline.recipe.new import write_recipe
from pipeline.recipe.schema import schema_text


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_it_writes_loads_under_its_name() -> None:
    assert write_recipe("mine") == Path("recipes/mine.yaml")
    recipe = load("mine", ["params.base=b"])
    assert recipe.name == "mine"
    assert recipe.steps[0].settings.model == "b"
    assert (Path("recipes") / "recipe.schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("name", ["a", "a_name_that_is_longer"])
def test_what_it_says_of_commands_stands_in_one_column(name: str) -> None:
    lines = write_recipe(name).read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("#   mergeline ")]
    assert commands[1].startswith(f"#   mergeline run {name} ")
    assert len({len(line) - len(line.rpartition("   ")[2]) for line in commands}) == 1


def test_what_to_do_next_is_said_with_the_recipes_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert load(said.split()[-1]).name == "mine"
    assert said.endswith("mergeline plan mine\n")


def test_it_never_overwrites() -> None:
    path = write_recipe("mine")
    path.write_text("precious\n")
    with pytest.raises(RecipeError, match="is there already"):
        write_recipe("mine.yaml")
    assert path.read_text() == "precious\n"


@pytest.mark.parametrize("name", ["../x", "a b", "", "/etc/x", ".hidden"])
def test_a_name_is_a_plain_one(name: str) -> None:
    with pytest.raises(RecipeError, match="not a plain name"):
        write_recipe(name)
    assert not Path("recipes").exists()
