"""Which blueprints can be streamed without torch, and what becomes of each tensor.

The direct path knows checkpoints whose files hold each tensor under the name that the model gives it, and
adapters that add a plain low-rank product to linear layers. Everything else has a reason not to go this
way, in words for the plan.
"""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.accounting.architectures import linear_layers, tensor_names
from pipeline.accounting.layout import Delta, Stored, Tensor
from pipeline.accounting.processor import has
from pipeline.blueprint import Adapter, Blueprint, Quantization, SavedDtype
from pipeline.checkpoint.adapter import AdapterCheckpoint, inspect_adapter
from pipeline.checkpoint.base import BaseCheckpoint, inspect_base
from pipeline.checkpoint.headers import TORCH_NAMES, TensorInfo
from pipeline.checkpoint.source import Source

MAX_RANK = 128
"""Beyond it, torch sums the product in another order and the bits would differ."""

BLOCK_4BIT = 64
"""Numbers under one scale of a weight in 4 bits."""
BITSANDBYTES = "0.50"
"""The version whose sums and roundings the stream repeats."""

_FACTOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_FOLDABLE = ("BF16", "F16", "F32")

_HARMLESS = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
        "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
        "target_modules", "task_type", "use_rslora", "runtime_config", "ephemeral_gpu_offload",
    }
)  # fmt: skip
"""Options of LoRA that leave it a product of two matrices, whatever they say."""

_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base as it is; others subtract something from it first."""


class NotDirectError(Exception):
    """The reason, for a person, why the direct path does not do this."""


@dataclass(frozen=True)
class Work:
    """What a direct stream will do."""

    base: BaseCheckpoint
    tensors: tuple[Tensor, ...]
    """In the order of the base's files."""
    safe: bool

    @property
    def folded(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.deltas)


def direct_work(blueprint: Blueprint, dtype: SavedDtype, *, fetch: bool = False) -> Work:
    """What becomes of each tensor when the blueprint is saved in `dtype`.

    Reads configs and headers only. With `fetch`, files of the Hub are downloaded as well; without, the
    paths of such files are names, enough for a plan. Raises NotDirectError with the reason when the live
    realiser is needed, InputError for files that nobody can use.
    """
    base = inspect_base(blueprint.base)
    _check_base(blueprint, base, dtype)
    stored = _stored_tensors(base, fetch)
    modules = linear_layers(base.config)
    deltas: defaultdict[str, list[Delta]] = defaultdict(list)
    for fold in blueprint.folds:
        for adapter in fold.adapters:
            for key, delta in _deltas(adapter, stored, modules, fetch):
                deltas[key].append(delta)
    through = _through(blueprint, stored, modules)
    tensors = tuple(
        Tensor(key, where, tuple(deltas[key]), through.get(key)) for key, where in stored.items()
    )
    return Work(base, tensors, safe=all(fold.safe for fold in blueprint.folds))


def _check_base(blueprint: Blueprint, base: BaseCheckpoint, dtype: SavedDtype) -> None:
    quantization = blueprint.base.quantization
    if quantization is not None:
        if quantization.saved:
            raise NotDirectError("the base is saved quantized")
        if not blueprint.dequantize:
            raise NotDirectError("the base stays quantized")
        if quantization.kind == "int8":
            raise NotDirectError("the base is quantized to int8")
    if base.pickle:
        raise NotDirectError("the base is pickled")
    if blueprint.base.trust_remote_code:
        raise NotDirectError("the base runs code of its own")
    if blueprint.base.task != "causal_lm":
        raise NotDirectError(f"the task is {blueprint.base.task}")
    for wanted, what in (
        (blueprint.base.dtype, "loaded"),
        (blueprint.dequantize_dtype, "dequantized"),
        (dtype, "saved"),
    ):
        if wanted not in (None, "keep", base.dtype):
            raise NotDirectError(f"the base is {base.dtype} and {what} as {wanted}")
    others = {info.dtype for info in base.tensors.values()} - {_spelt(base.dtype)}
    if others:
        raise NotDirectError(f"the base holds {base.dtype} and also {', '.join(sorted(others))}")


def _folder(source: Source, fetch: bool) -> Path:
    return source.fetch() if fetch else source.folder or Path(source.reference)


def _stored_tensors(base: BaseCheckpoint, fetch: bool) -> dict[str, Stored]:
    """The base's tensors by key, each with its file, when they are exactly those of the model."""
    names = tensor_names(base.config)
    if names is None:
        raise NotDirectError(f"the direct path does not know {base.model_type}")
    folder = _folder(base.source, fetch)
    found: dict[str, Stored] = {}
    for file in base.weight_files:
        for key, info in base.source.read_header(file).tensors.items():
            if key in found:
                raise NotDirectError(f"the base holds {key} twice")
            found[key] = Stored(folder / file, info)
    if found.keys() != names:
        odd = sorted(found.keys() ^ names)
        raise NotDirectError(f"the base's tensors are not those of {base.model_type}: {odd[0]}")
    return found


def _through(
    blueprint: Blueprint, base: Mapping[str, Stored], layers: frozenset[str]
) -> dict[str, Quantization]:
    """The weights that transformers quantizes: those of all linear layers but the head."""
    quantization = blueprint.base.quantization
    if quantization is None:
        return {}
    keys = [f"{layer}.weight" for layer in layers if layer != "lm_head"]
    _check_bitsandbytes({base[key].info.dtype for key in keys})
    for key in keys:
        match base[key].info.shape:
            case (_, columns) if columns % BLOCK_4BIT == 0:
                continue
        # bitsandbytes then reads scales of other blocks on some processors.
        raise NotDirectError(f"the rows of {key} are not whole blocks of {BLOCK_4BIT}")
    return dict.fromkeys(keys, quantization)


def _check_bitsandbytes(dtypes: set[str]) -> None:
    """Its rounding is known for one version of it, and is not the same on every processor."""
    found = version("bitsandbytes")
    if not found.startswith(f"{BITSANDBYTES}."):
        raise NotDirectError(
            f"bitsandbytes is {found}, and only {BITSANDBYTES} is known to the bit"
        )
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise NotDirectError("what bitsandbytes does on this processor is not known to the bit")
    if "F16" in dtypes and not has("avx512f"):
        raise NotDirectError("bitsandbytes rounds float16 in its own way on this processor")


def _deltas(
    adapter: Adapter, base: Mapping[str, Stored], layers: frozenset[str], fetch: bool
) -> Iterable[tuple[str, Delta]]:
    found = inspect_adapter(adapter)
    _check_kind(found)
    file = _folder(found.source, fetch) / found.weights
    pairs: defaultdict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, info in found.tensors.items():
        match = _FACTOR.match(name)
        if match is None:
            raise NotDirectError(f"the adapter holds {name}")
        pairs[match["module"]][match["side"]] = info
    targets = {layer for layer in layers if _is_target(layer, found.config)}
    if targets != pairs.keys():
        odd = sorted(targets ^ pairs.keys())
        raise NotDirectError(f"the adapter's tensors are not those of its config: {odd[0]}")
    for module, sides in pairs.items():
        key = f"{module}.weight"
        yield key, _delta(module, sides, file, base[key].info, found.config, adapter.weight)


def _delta(
    module: str,
    sides: Mapping[str, TensorInfo],
    file: Path,
    weight: TensorInfo,
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
    if rank != width or (rows, columns) != weight.shape:
        raise NotDirectError(f"the factors of {module} do not fit its weight")
    if rank > MAX_RANK:
        raise NotDirectError(f"the rank {rank} is more than {MAX_RANK}")
    if a.dtype not in _FOLDABLE or b.dtype not in _FOLDABLE:
        raise NotDirectError(f"the factors of {module} are {a.dtype}")
    if rank != _of_pattern(config.get("rank_pattern"), module, config["r"]):
        raise NotDirectError(f"the rank of {module} is not the one of the adapter's config")
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    # The order of PEFT's own operations: another one can differ in the last bit.
    scaling = factor * alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Delta(Stored(file, a), Stored(file, b), scaling)


def _check_kind(adapter: AdapterCheckpoint) -> None:
    if adapter.peft_type != "LORA":
        raise NotDirectError(f"the adapter is of type {adapter.peft_type}")
    if adapter.pickle:
        raise NotDirectError("the adapter is pickled")
    for option, value in adapter.config.items():
        # An empty mapping switches some options on; for LoftQ's it is what PEFT writes.
        neutral = value in (None, False, "none", []) or (option, value) == ("loftq_config", {})
        if option not in _HARMLESS and not neutral:
            raise NotDirectError(f"the adapter has {option}: {value}")
    if adapter.config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise NotDirectError(f"the adapter starts from {adapter.config['init_lora_weights']}")


def _is_target(layer: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT puts the adapter on a layer: by name, or by its end, or by a regular expression."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _named(layer, excluded):
        return False
    if targets is None or config.get("layers_to_transform") is not None:
        raise NotDirectError("the adapter's config leaves its layers to PEFT")
    if targets == "all-linear":
        return layer != "lm_head"
    return _named(layer, targets)


def _named(layer: str, names: str | list[str]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return layer in names or any(layer.endswith(f".{name}") for name in names)


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT finds it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _spelt(dtype: str) -> str:
    return next(short for short, name in TORCH_NAMES.items() if name == dtype)
