"""Configs as people have them: each ends as a config that PEFT takes, or as an error that says what it is."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import peft_types
from pipeline.checkpoint.adapter_config import AdapterConfig, check_adapter_config
from pipeline.checkpoint.textjson import parse_object
from pipeline.errors import InputError
from tests.fixtures.folders import LORA

WILD = Path(__file__).parents[1] / "fixtures" / "wild" / "adapters"
ERRORS = {
    "003.json": "LeRobot policy's config",
    "025.json": "image model of diffusers",
    "031.json": "image model of diffusers (black-forest-labs/FLUX.2-klein-base-4B)",
    "053.json": "adapter config of mlx-lm",
    "107.json": "image model of diffusers",
    "lfs-pointer-adapter_config.json": "git-LFS pointer",
}
TYPES = {
    "005.json": "IA3",
    "009.json": "ADAPTION_PROMPT",
    "011.json": "BOFT",
    "013.json": "FOURIERFT",
    "015.json": "LOHA",
    "021.json": "IA3",
    "027.json": "PROMPT_TUNING",
    "029.json": "TRAINABLE_TOKENS",
    "093.json": "PREFIX_TUNING",
    "105.json": "C3A",
}
"""All others are LORA."""
WARNS = {"021.json": "ModelConv2D of test_regression", "023.json": "MLP of test_regression"}
UNUSED = ("loftq_config", "eva_config", "corda_config")
FILES = sorted(path.name for path in WILD.glob("*.json"))


def read(name: str) -> AdapterConfig:
    return check_adapter_config(parse_object((WILD / name).read_bytes(), where=name), where=name)


@pytest.fixture(scope="module")
def peft_config() -> Any:
    """PEFT's own way from options to a config object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import: torch's and bitsandbytes' own
        from peft import PeftConfig
    return PeftConfig.from_peft_type


def test_every_file_has_an_outcome() -> None:
    assert set(FILES) >= ERRORS.keys() | TYPES.keys() | WARNS.keys()
    assert len(FILES) > 50


@pytest.mark.parametrize("name", [name for name in FILES if name not in ERRORS])
def test_a_usable_config_is_one_that_peft_takes_without_a_word(name: str, peft_config: Any) -> None:
    config = read(name)

    made = peft_config(**config.options)

    assert config.peft_type == TYPES.get(name, "LORA") == made.peft_type.value
    assert [WARNS[name] in warning for warning in config.warnings] == [True] * (name in WARNS)
    raw = json.loads((WILD / name).read_text())
    kept = {key: value for key, value in raw.items() if key in config.options}
    assert kept == dict(config.options), "nothing is changed on the way"
    lost = raw.keys() & peft_types.options_of(config.peft_type) - config.options.keys()
    assert all(raw[key] is None for key in lost - {"runtime_config", *UNUSED}), (
        "but null is left out"
    )


@pytest.mark.parametrize("name", ERRORS)
def test_anything_else_is_told_for_what_it_is(name: str) -> None:
    with pytest.raises(InputError) as caught:
        read(name)

    assert ERRORS[name] in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.fix


def refusal(**raw: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_adapter_config(raw, where="adapter_config.json")
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "lora"}, "did you mean 'LORA'?"),
        ({"peft_type": "LORAA"}, "did you mean 'LORA'?"),
        ({"peft_type": "TELEPATHY"}, "is not one that PEFT"),
        ({"peft_type": None}, "is not one that PEFT"),
        ({"peft_type": ["LORA"]}, "is not one that PEFT"),
        ({"peft_type": "BONE"}, "MISS"),
        ({"r": 0}, "`r` must be a whole number of at least 1, and is 0"),
        ({"r": "16"}, "and is '16'"),
        ({"r": 8.5}, "and is 8.5"),
        ({"r": True}, "and is True"),
        ({"r": None}, "`r` must be a number"),
        ({"lora_alpha": "32"}, "`lora_alpha` must be a number"),
        ({"lora_alpha": float("nan")}, "`lora_alpha` must be a number"),
        ({"lora_alpha": None}, "`lora_alpha` must be a number"),
        ({"lora_dropout": "0.05"}, "`lora_dropout` must be a number from 0 to 1"),
        ({"target_modules": ".*(q_proj|k_proj"}, "or a regular expression, and is '.*(q_proj"),
        ({"exclude_modules": "("}, "`exclude_modules` must be"),
        ({"layers_to_transform": [0], "layers_pattern": 5}, "`layers_pattern` must be"),
        ({"modules_to_save": "lm_head"}, "`modules_to_save` must be a list of names"),
        ({"rank_pattern": {"(q_proj": 4}}, "`rank_pattern` must be"),
        ({"rank_pattern": {"q_proj": 4.0}}, "`rank_pattern` must be"),
        ({"alpha_pattern": {"[": 4}}, "`alpha_pattern` must be"),
        ({"target_modules": {"q_proj": 1}}, "`target_modules` must be"),
        ({"target_modules": [1]}, "`target_modules` must be"),
        ({"modules_to_save": 3}, "`modules_to_save` must be"),
        ({"use_dora": "yes"}, "`use_dora` must be true or false"),
        ({"bias": "some"}, "`bias` must be none, all or lora_only"),
        ({"rank_pattern": ["a"]}, "`rank_pattern` must be"),
        ({"task_type": "CHAT"}, "`task_type` 'CHAT'"),
        ({"base_model_name_or_path": 7}, "`base_model_name_or_path` must be a text"),
        ({"layers_to_transform": "all"}, "`layers_to_transform` must be"),
        ({"target_modules": ".*", "layers_to_transform": [1]}, "is a pattern"),
        ({"layers_pattern": "layers"}, "needs `layers_to_transform`"),
        ({"use_dora": True, "lora_bias": True}, "cannot both be on"),
        ({"megatron_config": {"x": 1}}, "Megatron"),
        ({"eva_config": "rho"}, "`eva_config` must be an object"),
        ({"use_bdlora": True}, "`use_bdlora` must be an object"),
        (
            {"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": ["wo"]},
            "must be among `target_modules`",
        ),
        ({"peft_type": "ADALORA"}, "`total_step` is None"),
        ({"peft_type": "ADALORA", "total_step": 10, "tinit": 5, "tfinal": 5}, "`total_step` is 10"),
        ({"use_telepathy": True}, "sets `use_telepathy`, which PEFT"),
        ({"telepathy_config": {"range": 3}}, "sets `telepathy_config`, which PEFT"),
    ],
)
def test_a_config_that_peft_would_trip_over_later_is_told_at_once(
    changes: dict[str, Any], says: str
) -> None:
    assert says in refusal(**{**LORA, **changes})


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "it holds nothing"),
        ({"foo": 1}, "it holds foo"),
        (
            {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]},
            'add the line `"peft_type": "LORA"`',
        ),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "config of a whole model"),
        ({"lora_layers": 16, "rank": 8}, "mlx-lm"),
        ({"_class_name": "FluxTransformer2DModel"}, "diffusers"),
        ({"finetuning_type": "lora", "lora_rank": 8}, "LLaMA-Factory"),
        ({"ss_network_module": "networks.lora"}, "kohya"),
        ({"swift_type": "LORA"}, "ms-swift"),
        ({"base_model": "lerobot/act"}, "LeRobot"),
    ],
)
def test_configs_of_other_programs_are_recognised(raw: dict[str, Any], says: str) -> None:
    assert says in refusal(**raw)


def test_options_of_other_versions_are_dropped_while_they_are_off() -> None:
    raw = {
        **LORA,
        "enable_lora": None,
        "use_new": False,
        "new_config": {},
        "_note": "x",
        "runtime_config": {"a": 1},
    }

    config = check_adapter_config(raw, where="f")

    assert dict(config.options) == dict(LORA)
    assert config.warnings == ()


def test_a_figure_that_the_installed_peft_does_not_know_is_dropped_with_a_warning() -> None:
    config = check_adapter_config({**LORA, "new_group_size": 16}, where="f")

    assert "new_group_size" not in config.options
    assert "new_group_size=16" in config.warnings[0]


@pytest.mark.parametrize(
    "key", ["bias", "rank_pattern", "alpha_pattern", "lora_dropout", "use_dora"]
)
def test_null_leaves_an_option_at_its_default(key: str, peft_config: Any) -> None:
    made = peft_config(**check_adapter_config({**LORA, key: None}, where="f").options)

    assert getattr(made, key) == getattr(peft_config(**LORA), key)


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_a_scale_is_never_guessed(key: str) -> None:
    said = refusal(**{name: value for name, value in LORA.items() if name != key})

    assert f"`{key}` must be a number" in said


def test_settings_of_an_initialisation_that_is_not_used_are_dropped(peft_config: Any) -> None:
    raw = {
        **LORA,
        "corda_config": {},
        "loftq_config": {"loftq_bits": 4},
        "eva_config": {"rho": 2.0},
        "init_lora_weights": True,
    }

    assert peft_config(**check_adapter_config(raw, where="f").options).r == 4


def test_an_adalora_is_taken_without_the_rank_that_it_does_not_use(peft_config: Any) -> None:
    raw = {"peft_type": "ADALORA", "r": 16, "init_r": 12, "target_r": 8, "total_step": 100}

    assert peft_config(**check_adapter_config(raw, where="f").options).init_r == 12


def test_knows_the_types_and_options_that_peft_itself_has(peft_config: Any) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import TaskType

    assert {str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == set(peft_types.type_names())
    assert {kind.value for kind in TaskType} == set(peft_types.task_names())
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        theirs = {field.name for field in dataclasses.fields(config) if field.init}
        assert peft_types.options_of(kind.value) == theirs, kind


def test_every_type_that_is_said_not_to_merge_is_one_of_peft() -> None:
    assert peft_types.UNMERGEABLE.keys() <= set(peft_types.type_names())
    assert set(peft_types.type_names()) >= peft_types.SCALABLE


def test_corda_that_cannot_be_begun_again_is_refused_with_what_to_do() -> None:
    raw = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": "corda"}
    with pytest.raises(InputError, match="corda") as caught:
        check_adapter_config(raw, where="adapter_config.json")
    assert "path_initial_model_for_weight_conversion" in caught.value.fix
