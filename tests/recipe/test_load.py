"""A sound recipe: what comes out of the list, the presets, the params and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from pipeline.errors import COMMAND_LINE, Place
from pipeline.recipe import hydra_app, load
from pipeline.recipe.compose import composed
from pipeline.recipe.find import list_recipes
from pipeline.recipe.hydra_app import Request
from tests.recipe.conftest import Load

DESIGN = """\
params:
  base: some/base
  adapter: ./lora_adapter
steps:
  - load_base: {preset: nf4, model: "${params.base}"}
  - attach_adapter: {path: "${params.adapter}"}
  - dequantize                      # a bare name takes the defaults
  - merge
  - save: {path: "${run.dir}/merged"}
  - verify
"""
BASE = "steps:\n  - load_base: {model: x}\n"


def test_the_recipe_of_the_design_loads(load_text: Load) -> None:
    recipe = load_text(DESIGN)
    assert [call.id for call in recipe.steps] == [
        "load_base",
        "attach_adapter",
        "dequantize",
        "merge",
        "save",
        "verify",
    ]
    first = recipe.steps[0]
    assert (first.preset, first.settings.model, first.settings.quantization) == (
        "nf4",
        "some/base",
        "nf4",
    )
    assert first.place == Place("r.yaml", 5, 5)
    assert (recipe.name, recipe.engine, recipe.device, recipe.seed) == ("r", "auto", "auto", 0)
    assert recipe.steps[4].settings.path == f"{recipe.run_dir}/merged"


@pytest.mark.parametrize("name", [found.name for found in list_recipes()])
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load(name).name == name


def test_a_run_has_a_folder_of_its_own_named_after_recipe_time_and_fingerprint(
    load_text: Load,
) -> None:
    recipe = load_text(DESIGN)
    assert recipe.run_dir.parent == Path("outputs/r")
    assert recipe.run_dir.name.endswith(f"-{recipe.fingerprint[:8]}")


def test_the_folder_can_be_chosen_and_the_recipe_sees_it(load_text: Load) -> None:
    recipe = load_text(DESIGN, "hydra.run.dir=some where/run 1")
    assert recipe.run_dir == Path("some where/run 1")
    assert recipe.steps[4].settings.path == "some where/run 1/merged"


def test_the_fingerprint_follows_the_settings_and_not_the_folder(load_text: Load) -> None:
    one = load_text(DESIGN)
    assert load_text(DESIGN, "hydra.run.dir=elsewhere").fingerprint == one.fingerprint
    assert load_text(DESIGN, "save.dtype=float16").fingerprint != one.fingerprint
    assert load_text(DESIGN, "params.base=other").fingerprint != one.fingerprint


def test_equal_recipes_written_differently_have_one_fingerprint(load_text: Load) -> None:
    plain = load_text("steps:\n  - load_base: {model: x}\n  - save\n")
    longer = load_text("params:\nsteps:\n- load_base:\n    model: 'x'\n    dtype: auto\n- save:\n")
    assert plain.fingerprint == longer.fingerprint


def test_presets_can_be_named_in_three_ways(load_text: Load) -> None:
    short = load_text("steps:\n  - load_base: nf4\n", "load_base.model=x")
    long = load_text("steps:\n  - load_base: {preset: nf4, model: x}\n")
    said = load_text(BASE, "load_base=nf4")
    hydra = load_text(BASE, "step/load_base@steps.load_base=nf4")
    assert short.steps[0].settings == long.steps[0].settings == said.steps[0].settings
    assert hydra.steps[0].settings == said.steps[0].settings
    assert {r.steps[0].preset for r in (short, long, said, hydra)} == {"nf4"}


def test_what_the_recipe_says_beats_the_preset_and_the_command_line_beats_both(
    load_text: Load,
) -> None:
    text = "steps:\n  - load_base: {preset: nf4, model: x, double_quant: false}\n"
    assert load_text(text).steps[0].settings.double_quant is False
    assert load_text(text, "load_base.double_quant=true").steps[0].settings.double_quant is True


def test_a_preset_of_ones_own_comes_from_config_dir(load_text: Load, tmp_path: Path) -> None:
    folder = tmp_path / "conf/step/save"
    folder.mkdir(parents=True)
    (folder / "half.yaml").write_text("dtype: float16\n")
    (folder / "small.yaml").write_text("defaults: [half, _self_]\nmax_shard_size: 1GB\n")
    recipe = load_text(f"{BASE}  - save: small\n", config_dir=tmp_path / "conf")
    assert (recipe.steps[1].settings.dtype, recipe.steps[1].settings.max_shard_size) == (
        "float16",
        "1GB",
    )
    assert recipe.place("save.dtype").file == "conf/step/save/half.yaml"
    assert (
        load_text(f"{BASE}  - save\n", "hydra.searchpath=[file://conf]", "save=half")
        .steps[1]
        .settings.dtype
    )


def test_a_second_step_of_one_name_gets_a_number_or_its_own_id(load_text: Load) -> None:
    text = (
        f"{BASE}  - attach_adapter: {{path: a}}\n  - attach_adapter: {{path: b}}\n"
        "  - attach_adapter: {path: c, id: third}\n  - attach_adapter: {path: d}\n"
    )
    recipe = load_text(text, "attach_adapter_2.weight=0.5", "third.weight=2")
    ids = [call.id for call in recipe.steps[1:]]
    assert ids == ["attach_adapter", "attach_adapter_2", "third", "attach_adapter_3"]
    assert [call.settings.weight for call in recipe.steps[1:]] == [1.0, 0.5, 2, 1.0]


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("save.path=my folder", "my folder"),
        ("save.path='a, b'", "a, b"),
        ('save.path="a=b"', "a=b"),
        ("save.path=a=b", "a=b"),
        ("save.path=ünï/かな", "ünï/かな"),
        ("save.path=~/models", "~/models"),
        ("steps.save.path=x", "x"),
        ("+save.path=x", "x"),
        ("++save.path=x", "x"),
        ("++steps.save.path=x", "x"),
        ("save={path: x}", "x"),
        ("save.path=${params.where}", "there"),
        ("~save.path", "${run.dir}/model"),
    ],
)
def test_overrides_are_taken_as_people_type_them(load_text: Load, override: str, path: str) -> None:
    recipe = load_text(f"params: {{where: there}}\n{BASE}  - save: {{path: old}}\n", override)
    assert recipe.steps[1].settings.path == path.replace("${run.dir}", str(recipe.run_dir))
    assert recipe.overrides == (override,)


def test_the_rest_of_a_recipe_can_be_overridden_too(load_text: Load) -> None:
    recipe = load_text(
        BASE,
        "seed=7",
        "device=cuda:1",
        "engine=live",
        "tags=[a,b]",
        "name=other",
        "tracking=tensorboard",
    )
    assert (recipe.seed, recipe.device, recipe.engine, recipe.tags) == (
        7,
        "cuda:1",
        "live",
        ("a", "b"),
    )
    assert (recipe.name, recipe.tracking) == ("other", "tensorboard")
    assert recipe.run_dir.parent == Path("outputs/other")


def test_params_can_be_added_and_nested(load_text: Load) -> None:
    text = "params: {a: {b: x}}\nsteps:\n  - load_base: {model: '${params.a.b}', revision: '${params.c}'}\n"
    settings = load_text(text, "params.a.b=y", "+params.c=z").steps[0].settings
    assert (settings.model, settings.revision) == ("y", "z")


def test_a_mapping_option_takes_new_keys(load_text: Load) -> None:
    recipe = load_text(BASE, "load_base.max_memory.cpu=30GiB")
    assert recipe.steps[0].settings.max_memory == {"cpu": "30GiB"}


def test_a_step_can_be_left_out(load_text: Load) -> None:
    assert [call.id for call in load_text(DESIGN, "~verify").steps][-1] == "save"


def test_the_environment_can_be_named(load_text: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE_THE_BASE_IS", "/models/base")
    text = "steps:\n  - load_base: {model: '${oc.env:WHERE_THE_BASE_IS}'}\n"
    assert load_text(text).steps[0].settings.model == "/models/base"


def test_a_dollar_can_be_meant(load_text: Load) -> None:
    assert (
        load_text("steps:\n  - load_base: {model: 'a\\${b}$c'}\n").steps[0].settings.model
        == "a${b}$c"
    )


def test_every_key_knows_where_it_was_said(load_text: Load) -> None:
    recipe = load_text(DESIGN, "save.dtype=float16")
    assert recipe.place("save.path") == Place("r.yaml", 9, 12)
    assert recipe.place("save.dtype") == COMMAND_LINE
    assert recipe.place("save.overwrite") == Place("r.yaml", 9, 5)
    assert recipe.place("params.base") == Place("r.yaml", 2, 3)
    assert recipe.place("load_base.quantization").file.endswith("step/load_base/nf4.yaml")


def test_a_recipe_is_composed_once_for_its_check_and_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    whole = ConfigLoaderImpl._load_configuration_impl

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return whole(*args, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counting)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("steps:\n  - load_base: {model: ./base}\n")
    request = Request(Path("r.yaml"), ("load_base.dtype=float32", "hydra.run.dir=run"))

    recipe, asked = request.load()
    run = hydra_app.run(asked, lambda config: config)

    assert count == 1
    assert run.steps.load_base.dtype == recipe.steps[0].settings.dtype == "float32"


def test_a_composed_recipe_is_handed_out_as_copies(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("steps:\n  - load_base: {model: ./base}\n")
    asked = Request(tmp_path / "r.yaml").load()[1]

    with composed(asked.loader, asked.overrides) as first:
        first.steps.load_base.model = "another"
    with composed(asked.loader, asked.overrides) as second:
        assert second.steps.load_base.model == "./base"
