"""Recognise an `adapter_config.json` that is not PEFT's, or is not for a model of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import InputError

_OURS = "Mergeline reads adapters of PEFT"
_FROM_ELSEWHERE: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"fine_tune_type", "lora_parameters", "lora_layers"}),
        "is an adapter config of mlx-lm",
        f"{_OURS}; fuse it with `mlx_lm.fuse`, or convert its weights to PEFT's names",
    ),
    (
        frozenset({"_diffusers_version", "_class_name"}),
        "is a config of diffusers",
        f"{_OURS} over transformers models; use diffusers' own `fuse_lora`",
    ),
    (
        frozenset({"ss_network_module", "network_module", "networkDim"}),
        "is a config of kohya's scripts for image models",
        f"{_OURS} over transformers models; use the scripts' own merge",
    ),
    (
        frozenset({"model_class", "adapter_fusion", "leave_out", "hidden_size_reduction"}),
        "is a config of the AdapterHub library",
        f"{_OURS}; train or convert it with PEFT",
    ),
    (
        frozenset({"finetuning_type", "lora_rank", "lora_target", "stage", "template"}),
        "holds training arguments of LLaMA-Factory",
        f"{_OURS}; give the folder that the training wrote, with its own adapter_config.json",
    ),
    (
        frozenset({"swift_type", "sft_type", "swift_version"}),
        "is a config of ms-swift",
        f"{_OURS}; export it with `swift export --to_peft_format true`",
    ),
    (
        frozenset({"architectures", "model_type", "hidden_size"}),
        "is the config of a whole model",
        "give the model to `load_base`; an adapter has a `peft_type`",
    ),
)
_DIFFUSERS_TARGETS = frozenset({"to_q", "to_k", "to_v", "to_out.0", "to_add_out", "add_q_proj"})


def not_peft(raw: Mapping[str, Any], where: str) -> InputError:
    """The error for a config without `peft_type`, which says whose it is."""
    base = raw.get("base_model")
    if isinstance(base, str) and base.startswith("lerobot/"):
        return InputError(
            f"is a LeRobot policy's config (base {base}), not an adapter of PEFT",
            where=where,
            fix=f"{_OURS} over transformers models; use LeRobot itself for this one",
        )
    for marks, what, fix in _FROM_ELSEWHERE:
        if marks & raw.keys() and not {"lora_alpha", "target_modules"} & raw.keys():
            return InputError(f"{what}, not an adapter of PEFT", where=where, fix=fix)
    if {"lora_alpha", "target_modules"} <= raw.keys():
        return InputError(
            "names no `peft_type`",
            where=where,
            fix='if it is a LoRA of PEFT, add the line `"peft_type": "LORA"`',
        )
    keys = ", ".join(sorted(str(key) for key in raw)[:5]) or "nothing"
    return InputError(
        f"is not a config of PEFT: it names no `peft_type` (it holds {keys})",
        where=where,
        fix=f"{_OURS}; give the folder that PEFT's `save_pretrained` wrote",
    )


def refuse_diffusers(options: Mapping[str, Any], where: str) -> None:
    """InputError for PEFT's config of an image model, which no model of transformers can take."""
    targets = options.get("target_modules")
    mapping = options.get("auto_mapping")
    library = str(mapping.get("parent_library")) if isinstance(mapping, dict) else ""
    named = len(_DIFFUSERS_TARGETS & set(targets)) >= 2 if isinstance(targets, list) else False
    if named or library.startswith("diffusers"):
        base = options.get("base_model_name_or_path")
        of = f" ({base})" if base else ""
        raise InputError(
            f"adapts an image model of diffusers{of}, not a transformers model",
            where=where,
            fix="merge it with diffusers: `pipe.load_lora_weights(...)`, then `pipe.fuse_lora()`",
        )
