"""The JSON Schema says yes and no where loading does."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.recipe.find import list_recipes
from pipeline.recipe.schema import recipe_schema, schema_text
from pipeline.resources import recipes_dir
from pipeline.steps import all_steps
from tests.recipe.conftest import Problems
from tests.recipe.test_load import DESIGN

SHIPPED = [found for found in list_recipes() if found.shipped]


def valid(recipe: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(recipe_schema()).is_valid(recipe))


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


def test_the_one_that_is_shipped_is_current() -> None:
    """When a step's settings changed: `mergeline schema > recipes/recipe.schema.json`."""
    assert (recipes_dir() / "recipe.schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("found", SHIPPED, ids=[found.name for found in SHIPPED])
def test_shipped_recipes_are_valid_and_tell_editors_so(found: Any) -> None:
    text = (recipes_dir() / f"{found.name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert valid(yaml.safe_load(text))


RIGHT = [
    DESIGN,
    "steps: [load_base]",
    "steps: [{load_base: nf4}]",
    "steps: [{load_base: }]",
    "params:\nseed: 3\ntags: [a]\ndevice: cuda:1\nengine: live\nname: x\nsteps: [{load_base: {model: x}}]",
    "steps: [{load_base: {model: x}}, {train_adapter: {data: d, r: '${params.r}'}}]",
    "steps: [{load_base: {model: x}}, {generate: {prompts: ['${params.a}', b]}}]",
]
WRONG = [
    "[]",
    "name: x",
    "steps: []",
    "steps: {load_base: {model: x}}",
    "steps: [xyzzy]",
    "steps: [{xyzzy: {}}]",
    "steps: [{load_base: {model: x}, merge: {}}]",
    "steps: [{load_base: {model: x, modle: y}}]",
    "steps: [{load_base: {model: 3}}]",
    "steps: [{load_base: {model: x, dtype: float17}}]",
    "steps: [{load_base: {model: x, double_quant: 'yes please'}}]",
    "steps: [{load_base: {model: x}}, {train_adapter: {data: d, r: 0}}]",
    "steps: [{load_base: {model: x}}, {generate: {prompts: hello}}]",
    "steps: [{load_base: {model: x, id: 'a b'}}]",
    "steps: [{load_base: {model: x}}]\nhydra: {}",
    "steps: [{load_base: {model: x}}]\nseed: x",
    "steps: [{load_base: {model: x}}]\ndevice: gpu",
]


@pytest.mark.parametrize("text", RIGHT)
def test_it_takes_what_loads(text: str, problems_of: Problems) -> None:
    assert valid(yaml.safe_load(text))
    needed = [problem.what for problem in problems_of(text, "++params.r=3", "++params.a=b")]
    assert needed in ([], ["is required, but has no value"])  # which the command line could give


@pytest.mark.parametrize("text", WRONG)
def test_it_refuses_what_does_not_load(text: str, problems_of: Problems) -> None:
    assert not valid(yaml.safe_load(text))
    assert problems_of(text)


def test_every_option_of_every_step_is_described() -> None:
    items = recipe_schema()["properties"]["steps"]["items"]["anyOf"][-1]["properties"]
    assert set(items) == set(all_steps())
    for name, step in items.items():
        for option, schema in step["anyOf"][0]["properties"].items():
            assert schema.get("description"), f"{name}.{option}"
