"""Which blueprints can be streamed without torch, and what becomes of each tensor.

The direct path knows checkpoints whose files hold each tensor under the name that the model gives it, and
adapters that add a plain low-rank product to linear layers. Everything else has a reason not to go this
way, in words for the plan.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from pipeline.accounting.architectures import linear_layers, quantized_weights, tensor_shapes
from pipeline.accounting.layout import Delta, Stored, Tensor, Unpack4
from pipeline.accounting.lora import FOLDABLE, local_folder, lora_deltas
from pipeline.accounting.not_direct import NotDirectError
from pipeline.accounting.packed import BLOCK_4BIT, Unpacking, parts_of, unpackings
from pipeline.accounting.processor import has
from pipeline.accounting.way import Way, spelt
from pipeline.blueprint import Blueprint, Dtype, Fold, Quantization, SavedDtype
from pipeline.checkpoint.base import BaseCheckpoint, inspect_base
from pipeline.checkpoint.quantization import as_dtype

BITSANDBYTES = "0.50"
"""The version whose sums and roundings the stream repeats."""


@dataclass(frozen=True)
class Work:
    """What a direct stream will do."""

    base: BaseCheckpoint
    tensors: tuple[Tensor, ...]
    """In the order of the base's files."""
    safe: bool
    dtype: Dtype
    """Of the output."""

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
    _check_base(blueprint, base)
    weights = _weights(base, fetch)
    through = _through(blueprint.loaded.quantization, base, weights)
    folds = [_deltas(fold, base, weights, fetch) for fold in blueprint.folds]
    loaded = blueprint.base.dtype or base.dtype
    saved = base.dtype if dtype == "keep" else dtype
    way = Way(
        spelt(loaded),
        spelt((blueprint.dequantize and blueprint.dequantize_dtype) or loaded),
        spelt(saved),
        tuple(fold.accumulate for fold in blueprint.folds),
    )
    if base.quantization or through:
        _check_bitsandbytes(way, weights)
    tensors = []
    for key, weight in weights.items():
        deltas = [fold[key] for fold in folds]
        changes = way.changes(weight.stored.info.dtype, weight.unpacking, through.get(key), deltas)
        tensors.append(Tensor(key, weight.stored, changes))
    safe = all(fold.safe for fold in blueprint.folds)
    return Work(base, tuple(tensors), safe, saved)


def _check_base(blueprint: Blueprint, base: BaseCheckpoint) -> None:
    if blueprint.quantized:
        raise NotDirectError("the base stays quantized")
    if base.pickle:
        raise NotDirectError("the base is pickled")
    if blueprint.base.trust_remote_code:
        raise NotDirectError("the base runs code of its own")
    if blueprint.base.task != "causal_lm":
        raise NotDirectError(f"the task is {blueprint.base.task}")


@dataclass(frozen=True)
class _Weight:
    """A tensor of the base, and how it is made plain numbers where it is packed."""

    stored: Stored
    unpacking: Unpacking | None

    @property
    def shape(self) -> tuple[int, ...]:
        if isinstance(self.unpacking, Unpack4):
            return self.unpacking.form.shape
        return self.stored.info.shape


def _weights(base: BaseCheckpoint, fetch: bool) -> dict[str, _Weight]:
    """The base's tensors by key, when they are exactly those of the model."""
    shapes = tensor_shapes(base.config)
    if shapes is None:
        raise NotDirectError(f"the tensors of {base.model_type} are not known by name")
    stored = _stored_tensors(base, fetch)
    packed = unpackings(stored) if base.quantization else {}
    parts = {part for key, how in packed.items() for part in parts_of(key, how)}
    found = {
        key: _Weight(where, packed.get(key)) for key, where in stored.items() if key not in parts
    }
    if found.keys() != shapes.keys():
        odd = sorted(found.keys() ^ shapes.keys())
        raise NotDirectError(f"the base's tensors are not those of {base.model_type}: {odd[0]}")
    unlike = [key for key, weight in found.items() if weight.shape != shapes[key]]
    if unlike:
        raise NotDirectError(f"its config.json does not tell the shape of {unlike[0]}")
    if base.quantization and packed.keys() != quantized_weights(base.config):
        odd = sorted(packed.keys() ^ quantized_weights(base.config))
        raise NotDirectError(f"bitsandbytes would quantize other layers: {odd[0]}")
    plain = {weight.stored.info.dtype for key, weight in found.items() if key not in packed}
    if not plain <= set(FOLDABLE):
        raise NotDirectError(f"the base holds {', '.join(sorted(plain - set(FOLDABLE)))}")
    says_dtype = as_dtype(base.config.get("dtype") or base.config.get("torch_dtype"))
    if not says_dtype and (packed or plain != {spelt(base.dtype)}):
        raise NotDirectError("the base's config does not say its dtype")
    return found


def _stored_tensors(base: BaseCheckpoint, fetch: bool) -> dict[str, Stored]:
    folder = local_folder(base.source, fetch=fetch)
    found: dict[str, Stored] = {}
    for file in base.weight_files:
        for key, info in base.source.read_header(file).tensors.items():
            if key in found:
                raise NotDirectError(f"the base holds {key} twice")
            found[key] = Stored(folder / file, info)
    return found


def _through(
    quantization: Quantization | None, base: BaseCheckpoint, weights: Mapping[str, _Weight]
) -> dict[str, Quantization]:
    """The weights that are quantized when they are loaded."""
    if quantization is None or quantization.saved:
        return {}
    keys = quantized_weights(base.config)
    for key in keys:
        match weights[key].shape:
            case (_, columns) if columns % BLOCK_4BIT == 0 or quantization.kind == "int8":
                continue
        # bitsandbytes then reads scales of other blocks on some processors.
        raise NotDirectError(f"the rows of {key} are not whole blocks of {BLOCK_4BIT}")
    return dict.fromkeys(keys, quantization)


def _deltas(
    fold: Fold, base: BaseCheckpoint, weights: Mapping[str, _Weight], fetch: bool
) -> defaultdict[str, list[Delta]]:
    """What the adapters of one merge add to each weight."""
    shapes = {key: weight.shape for key, weight in weights.items()}
    found: defaultdict[str, list[Delta]] = defaultdict(list)
    for adapter in fold.adapters:
        deltas = lora_deltas(adapter, shapes, linear_layers(base.config), fetch=fetch)
        for key, delta in deltas.items():
            found[key].append(delta)
    return found


def _check_bitsandbytes(way: Way, weights: Mapping[str, _Weight]) -> None:
    """Its rounding is known for one version of it, and is not the same on every processor."""
    found = version("bitsandbytes")
    if not found.startswith(f"{BITSANDBYTES}."):
        raise NotDirectError(
            f"bitsandbytes is {found}, and only {BITSANDBYTES} is known to the bit"
        )
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise NotDirectError("what bitsandbytes does on this processor is not known to the bit")
    unpacked = {
        w.unpacking.form.dtype for w in weights.values() if isinstance(w.unpacking, Unpack4)
    }
    if "F16" in {way.loaded, *unpacked} and not has("avx512f"):
        raise NotDirectError("bitsandbytes rounds float16 in its own way on this processor")
