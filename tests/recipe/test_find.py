"""What a RECIPE on the command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.recipe.find import find_recipe, list_recipes
from pipeline.resources import recipes_dir


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_shipped_name_works_from_anywhere() -> None:
    assert find_recipe("merge_qlora") == recipes_dir() / "merge_qlora.yaml"


def test_a_recipe_of_ones_own_comes_before_a_shipped_one() -> None:
    own = Path("recipes/merge_qlora.yaml")
    own.parent.mkdir()
    own.write_text("# merge_qlora - mine\nsteps: []\n")
    assert find_recipe("merge_qlora") == own
    found = {recipe.name: recipe for recipe in list_recipes()}
    assert (found["merge_qlora"].about, found["merge_qlora"].shipped) == ("mine", False)
    assert found["merge_lora"].shipped


@pytest.mark.parametrize(
    "reference", ["./some.yaml", "some.yaml", "deep/down/recipe.yml", "deep/down/plain"]
)
def test_a_path_to_a_file_is_that_file(reference: str) -> None:
    Path(reference).parent.mkdir(parents=True, exist_ok=True)
    Path(reference).write_text("steps: []\n")
    assert find_recipe(reference) == Path(reference)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("merge_qlroa", "did you mean 'merge_qlora'?"),
        ("xyz", "`mergeline recipes` lists them"),
        ("./merge.yml", "did you mean 'merge.yaml'?"),
        ("plain", "write `./plain`"),
        ("merge", "write `./merge.yaml`"),
        ("merge_lora.yaml", "write `merge_lora`"),
        (".", "there is no recipe"),
        ("./", "is a folder"),
    ],
)
def test_what_is_not_there_is_told_with_what_may_be_meant(reference: str, words: str) -> None:
    Path("merge.yaml").write_text("steps: []\n")
    Path("plain").write_text("steps: []\n")
    with pytest.raises(RecipeError) as error:
        find_recipe(reference)
    assert words in str(error.value)


def test_every_shipped_recipe_says_what_it_is_for() -> None:
    found = list_recipes()
    assert len(found) >= 8
    assert all(recipe.about for recipe in found)
