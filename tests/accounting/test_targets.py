"""Which modules an adapter's config names, held against PEFT's own reading of it."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from pipeline.accounting.targets import targeted

MODULES = [
    "lm_head",
    "model.embed_tokens",
    *(
        f"model.layers.{layer}.{part}"
        for layer in (0, 1, 11)
        for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.experts.1.up_proj", "mlp.up_proj")
    ),
    "layers.1.q_proj",
    "vision.blocks.1.q_proj",
    "model.layers.1.my_q_proj",
]


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "up_proj"]},
        {"target_modules": ["model.layers.1.self_attn.q_proj", "lm_head"]},
        {"target_modules": r".*\.layers\.\d+\.(self_attn\.q|mlp\.up)_proj"},
        {"target_modules": "q_proj"},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.0.self_attn.k_proj"]},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*\.1\..*"},
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head", "mlp"]},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1, 11]},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 0},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"},
        {
            "target_modules": ["q_proj"],
            "layers_to_transform": [1],
            "layers_pattern": ["blocks", "layers"],
        },
        {"target_modules": ["model.layers.0.mlp.up_proj", "q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["nothing"]},
    ],
)
def test_modules_are_those_that_peft_takes(options: dict[str, Any]) -> None:
    config = LoraConfig(**options)

    assert targeted(options, MODULES) == {
        name for name in MODULES if check_target_module_exists(config, name)
    }


@pytest.mark.parametrize("targets", [None, [], "all-linear"])
def test_what_peft_makes_of_the_model_is_left_open(targets: Any) -> None:
    assert targeted({"target_modules": targets}, MODULES) is None


def test_parameters_are_targets_too() -> None:
    config = {"target_modules": ["k_proj"], "target_parameters": ["q_proj.weight"]}

    assert targeted(config, ["a.q_proj", "a.k_proj", "a.v_proj"]) == {"a.q_proj", "a.k_proj"}
