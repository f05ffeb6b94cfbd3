"""Configs of bases as people have them, made small: the stream writes what the live realiser writes.

The sizes are ours; all else (which layers there are, their names, biases, ties, experts, vision towers) is
the config's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from pipeline.blueprint import Adapter, Base, Blueprint, Fold, Task
from tests.fixtures.models import build_adapter
from tests.parity.modules_cases import Case, written
from tests.parity.plain import assert_same_bits, config_of, tensors_of

FOLDER = Path(__file__).parents[1] / "fixtures" / "wild" / "bases"

NOT_BUILT = {
    "baichuan-1": "its code is not part of transformers",
    "bloom-2": "it names no class of model",
    "chatglm-1": "its code is not part of transformers",
    "llava-1": "it names a class of another library",
}

SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "n_embd", "out_hidden_size", "embed_dim", "projection_dim"), 64
    ),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "max_position_embeddings"), 128),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("head_dim", "kv_channels", "query_pre_attn_scalar", "image_size"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "linear_num_key_heads"), 2),
    **dict.fromkeys(("n_layer", "depth", "full_attention_interval"), 2),
    "linear_num_value_heads": 4,
    "max_window_layers": 4,
    "n_positions": 64,
    "num_position_embeddings": 16,
    "patch_size": 8,
    "vocab_size": 320,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_start_token_id": 7,
    "vision_end_token_id": 8,
    "deepstack_visual_indexes": [1],
    "fullatt_block_indexes": [1],
}
ROPE = ("rope_scaling", "rope_parameters")


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    """The config with small sizes, in its nested configs too."""
    small: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("layer_types", "auto_map"):
            continue  # follows from the sizes; names code
        if isinstance(value, dict) and key in ROPE:
            small[key] = {
                **value,
                **({"mrope_section": [2, 3, 3]} if "mrope_section" in value else {}),
            }
        elif isinstance(value, dict):
            small[key] = shrink(value)
        else:
            small[key] = SMALL.get(key, value) if value is not None else None
    return small


def build(folder: Path, name: str) -> tuple[Path, Task, str]:
    """A small base with random weights; the task that it is for, and the class that loads it."""
    base = folder / "base"
    base.mkdir()
    config = shrink(json.loads((FOLDER / f"{name}.json").read_text()))
    (base / "config.json").write_text(json.dumps(config))
    kind = config["architectures"][0]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.AutoConfig.from_pretrained(base))
    model.to(torch.bfloat16).save_pretrained(base)
    if "ConditionalGeneration" in kind:
        return base, "image_text_to_text", "AutoModelForImageTextToText"
    if "CausalLM" in kind or "LMHead" in kind:
        return base, "causal_lm", "AutoModelForCausalLM"
    return base, "feature_extraction", "AutoModel"


@pytest.mark.filterwarnings(
    "ignore:.*did not match any targeted module"
)  # that PEFT adds for experts
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize(
    "name", sorted({file.stem for file in FOLDER.glob("*.json")} - NOT_BUILT.keys())
)
def test_a_wild_base_streams_as_it_is_made_live(name: str, tmp_path: Path) -> None:
    base, task, auto = build(tmp_path, name)
    config = peft.LoraConfig(r=4, lora_alpha=7, target_modules="all-linear")
    adapter = build_adapter(tmp_path / "adapter", base, config, auto_class=auto)
    blueprint = Blueprint(
        Base(str(base), task=task), folds=(Fold((Adapter(str(adapter), name="wild"),)),)
    )
    ours, live = (written(Case(), blueprint, tmp_path, how) for how in ("stream", "live"))
    found, plain = tensors_of(ours), tensors_of(live)
    # What the model does not know is copied by a stream and left out by a live model.
    unknown = found.keys() - plain.keys()
    assert_same_bits({key: t for key, t in found.items() if key not in unknown}, plain)
    assert config_of(ours) == config_of(live)
