"""LoRA adapters that add a plain low-rank product to linear layers, and to which of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.accounting.layout import Delta, Stored
from pipeline.accounting.not_direct import NotDirectError
from pipeline.accounting.targets import targeted
from pipeline.blueprint import Adapter
from pipeline.checkpoint.adapter import AdapterCheckpoint, inspect_adapter
from pipeline.checkpoint.headers import TensorInfo
from pipeline.checkpoint.source import Source

MAX_RANK = 128
"""Beyond it, torch sums the product in another order and the bits would differ."""

_FACTOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
FOLDABLE = ("BF16", "F16", "F32")

_HARMLESS = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
        "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
        "target_modules", "task_type", "use_rslora", "runtime_config", "ephemeral_gpu_offload",
    }
)  # fmt: skip
"""Options of LoRA that leave it a product of two matrices, whatever they say."""

_ELSEWHERE = frozenset({"bias", "modules_to_save", "target_parameters", "trainable_token_indices"})
"""Options that change tensors of their own, which stand in the file under other names."""

_LEFT_TO_PEFT = "the adapter's config leaves its layers to PEFT"

_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base as it is; others subtract something from it first."""


def local_folder(source: Source, *, fetch: bool) -> Path:
    """Where the files are, or without `fetch`, for a plan, only a name for where they will be."""
    return source.fetch() if fetch else source.folder or Path(source.reference)


def lora_deltas(
    adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], layers: frozenset[str], *, fetch: bool
) -> dict[str, Delta]:
    """What the adapter adds to each weight, by the weight's key.

    `shapes` are those of the base's weights, `layers` the names of its linear layers. Raises NotDirectError
    for an adapter that is more than such products.
    """
    found = inspect_adapter(adapter)
    _check_kind(found, _HARMLESS)
    file = local_folder(found.source, fetch=fetch) / found.weights
    pairs: defaultdict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, info in found.tensors.items():
        match = _FACTOR.match(name)
        if match is None:
            raise NotDirectError(f"the adapter holds {name}")
        pairs[match["module"]][match["side"]] = info
    targets = targeted(found.config, layers)
    if targets is None:
        raise NotDirectError(_LEFT_TO_PEFT)
    if targets != pairs.keys():
        odd = sorted(targets ^ pairs.keys())
        raise NotDirectError(f"the adapter's tensors are not those of its config: {odd[0]}")
    return {
        (key := f"{module}.weight"): _delta(
            module, sides, file, shapes[key], found.config, adapter.weight
        )
        for module, sides in pairs.items()
    }


def module_delta(
    adapter: Adapter, module: str, names: Collection[str], shape: tuple[int, ...]
) -> Delta:
    """What the tensors of these `names` in an adapter's file add to the weight of one linear layer.

    Elsewhere the adapter may do more. Raises NotDirectError where it does more here.
    """
    found = inspect_adapter(adapter)
    _check_kind(found, _HARMLESS | _ELSEWHERE)
    if found.config.get("target_modules") in (None, [], "all-linear"):
        raise NotDirectError(_LEFT_TO_PEFT)
    sides = {}
    for name in names:
        match = _FACTOR.match(name)
        if match is None:
            raise NotDirectError(f"the adapter holds {name}")
        sides[match["side"]] = found.tensors[name]
    file = found.source.fetch() / found.weights
    return _delta(module, sides, file, shape, found.config, adapter.weight)


def _delta(
    module: str,
    sides: Mapping[str, TensorInfo],
    file: Path,
    shape: tuple[int, ...],
    config: Mapping[str, Any],
    factor: float,
) -> Delta:
    match sides:
        case {
            "A": TensorInfo(shape=(rank, columns)) as a,
            "B": TensorInfo(shape=(rows, width)) as b,
        }:
            pass
        case _:
            raise NotDirectError(f"the factors of {module} are not two matrices")
    if rank != width or (rows, columns) != shape:
        raise NotDirectError(f"the factors of {module} do not fit its weight")
    if rank > MAX_RANK:
        raise NotDirectError(f"the rank {rank} is more than {MAX_RANK}")
    if a.dtype not in FOLDABLE or b.dtype not in FOLDABLE:
        raise NotDirectError(f"the factors of {module} are {a.dtype}")
    if rank != _of_pattern(config.get("rank_pattern"), module, config["r"]):
        raise NotDirectError(f"the rank of {module} is not the one of the adapter's config")
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    # The order of PEFT's own operations: another one can differ in the last bit.
    scaling = factor * alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Delta(Stored(file, a), Stored(file, b), scaling)


def _check_kind(adapter: AdapterCheckpoint, harmless: Collection[str]) -> None:
    if adapter.peft_type != "LORA":
        raise NotDirectError(f"the adapter is of type {adapter.peft_type}")
    if adapter.pickle:
        raise NotDirectError("the adapter is pickled")
    for option, value in adapter.config.items():
        # An empty mapping switches some options on; for LoftQ's it is what PEFT writes.
        neutral = value in (None, False, "none", []) or (option, value) == ("loftq_config", {})
        if option not in harmless and not neutral:
            raise NotDirectError(f"the adapter has {option}: {value}")
    if adapter.config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise NotDirectError(f"the adapter starts from {adapter.config['init_lora_weights']}")


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT finds it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
