"""A base model before it is loaded: config, precision, files of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from pipeline.blueprint import DTYPES, Base, Dtype, Quantization
from pipeline.checkpoint import transformers_types
from pipeline.checkpoint.headers import TORCH_NAMES, TensorInfo
from pipeline.checkpoint.shards import Weights, find_weights
from pipeline.checkpoint.source import Source, locate
from pipeline.errors import InputError

_ALONGSIDE = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".md", ".spm", ".vocab")


@dataclass(frozen=True)
class BaseCheckpoint:
    """What the files of a base say of it."""

    source: Source
    """Its files, without those that a load does not read (weights in other formats, optimizer states)."""
    config: Mapping[str, Any]
    """config.json."""
    quantization: Quantization | None
    """How the checkpoint itself is quantized, if it is."""
    dtype: Dtype
    """Of the checkpoint: what its config says, or else what most of its floating-point bytes are."""
    weights: Weights
    warnings: tuple[str, ...] = ()

    @property
    def weight_files(self) -> tuple[str, ...]:
        return self.weights.files

    @property
    def pickle(self) -> bool:
        """Whether the weights are pickles of torch.save, for want of safetensors."""
        return self.weights.pickle

    @property
    def weight_bytes(self) -> int:
        return sum(self.source.files[name] for name in self.weights.files)

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def custom_code(self) -> bool:
        """Whether the repository brings Python code that could be run instead of transformers' own."""
        return "auto_map" in self.config

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name, from the headers; empty for pickles. Raises InputError."""
        if self.pickle:
            return {}
        found: dict[str, TensorInfo] = {}
        for name in self.weights.files:
            found.update(self.source.read_header(name).tensors)
        return found


def inspect_base(base: Base) -> BaseCheckpoint:
    """Read what a base is from its config and file names, without its weights. Raises InputError."""
    source = locate(base.model, base.revision)
    config = _read_config(source)
    where = source.where("config.json")
    quantization = _quantization(config, where)
    weights = find_weights(source)
    if weights.pickle and not base.allow_pickle:
        raise InputError(
            f"has only pickled weights ({weights.files[0]}), which can carry code",
            where=base.model,
            fix="convert them to safetensors, or set `allow_pickle: true` to read them with weights_only",
        )
    warnings = [*_check_code(config, where, base.trust_remote_code)]
    used = [*weights.files, *weights.index, *(n for n in source.files if n.endswith(_ALONGSIDE))]
    if not weights.pickle:
        used = [name for name in used if not name.startswith("pytorch_model")]
    found = BaseCheckpoint(
        source=source.only(name for name in source.files if name in set(used) or _is_notice(name)),
        config=config,
        quantization=quantization,
        dtype=_dtype(config) or "float32",
        weights=weights,
        warnings=tuple(warnings),
    )
    if source.folder is not None:
        _check_tensors(found)
        _check_quantized(found)
    if _dtype(config) is None and not weights.pickle:
        return BaseCheckpoint(
            found.source, config, quantization, _most_common(found.tensors), weights, found.warnings
        )
    return found


def _read_config(source: Source) -> Mapping[str, Any]:
    if "config.json" not in source.files:
        raise InputError("has no config.json", where=source.reference, fix=_what_it_is(source))
    config = source.read_json("config.json")
    assert config is not None
    where = source.where("config.json")
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        what = "names no `model_type`, so transformers cannot tell what model it is"
        if "_class_name" in config or "_diffusers_version" in config:
            what = "belongs to diffusers (an image model), which transformers cannot load"
        elif "architectures" not in config and "hidden_size" not in config:
            what = "is not the config of a transformers model"
        raise InputError(
            what, where=where, fix="give the folder of a model in transformers' format"
        )
    return config


def _what_it_is(source: Source) -> str:
    names = source.files
    inner = sorted(name.split("/")[0] for name in names if name.endswith("/config.json"))
    if "adapter_config.json" in names:
        return "this is an adapter: give its base here, and the adapter to `attach_adapter`"
    if "model_index.json" in names:
        return "this is a diffusers pipeline, which transformers cannot load"
    if inner:
        return f"did you mean its sub-folder {inner[0]}?"
    if any(name.endswith(".gguf") for name in names):
        return "GGUF is a format for llama.cpp; give the folder of the model it was made from"
    if "params.json" in names or any(name.startswith("consolidated.") for name in names):
        return "this is the publisher's own format; take the repository in transformers' format (often `-hf`)"
    return "give the folder that holds config.json and the weights"


def _quantization(config: Mapping[str, Any], where: str) -> Quantization | None:
    said = config.get("quantization_config") or config.get("compression_config")
    if said is None:
        text = config.get("text_config")
        said = text.get("quantization_config") if isinstance(text, dict) else None
    if not said:
        return None
    if not isinstance(said, dict):
        raise InputError(
            "`quantization_config` is not an object", where=where, fix="mend config.json"
        )
    four, eight = said.get("load_in_4bit") is True, said.get("load_in_8bit") is True
    method = said.get("quant_method") or ("bitsandbytes" if four or eight else "an unnamed method")
    if str(method).startswith("bitsandbytes"):
        if eight:
            return Quantization("int8", saved=True)
        if four:
            return _four_bit(said, where)
        return None
    raise InputError(
        f"is quantized with {method}, and only bitsandbytes (4 and 8 bit) can be read",
        where=where,
        fix="use the original base that it was made from, in full precision",
    )


def _four_bit(said: Mapping[str, Any], where: str) -> Quantization:
    kind = said.get("bnb_4bit_quant_type", "fp4")
    if kind not in ("nf4", "fp4"):
        raise InputError(
            f"`bnb_4bit_quant_type` is {kind!r}", where=where, fix="it must be nf4 or fp4"
        )
    return Quantization(
        kind=kind,
        double_quant=bool(said.get("bnb_4bit_use_double_quant", False)),
        storage=_plain(said.get("bnb_4bit_quant_storage")) or "uint8",
        compute_dtype=_as_dtype(said.get("bnb_4bit_compute_dtype")),
        saved=True,
    )


def _check_tensors(base: BaseCheckpoint) -> None:
    """Every header is sound, and holds what the index says."""
    missing = sorted(base.weights.weight_map.keys() - base.tensors.keys())
    if missing and not base.pickle:
        raise InputError(
            f"names {len(missing)} tensors that are in none of its files: {missing[0]}, ...",
            where=base.source.where(base.weights.index[0]),
            fix="copy or download the model again",
        )


def _check_quantized(base: BaseCheckpoint) -> None:
    """A `quantization_config` that was left behind makes loaders quantize, or fail, for no visible reason."""
    if base.quantization is None or base.pickle:
        return
    mark = (
        "SCB"
        if base.quantization.kind == "int8"
        else f"quant_state.bitsandbytes__{base.quantization.kind}"
    )
    if not any(name.endswith(mark) for name in base.tensors):
        raise InputError(
            f"says that the weights are in {base.quantization.kind}, and they are not",
            where=base.source.where("config.json"),
            fix="remove the left-over `quantization_config` from it",
        )


def _check_code(config: Mapping[str, Any], where: str, trusted: bool) -> list[str]:
    kind = str(config["model_type"])
    known = transformers_types.knows_model_type(kind)
    if "auto_map" in config and not trusted and not known:
        raise InputError(
            f"the model {kind!r} is not part of transformers and comes with its own Python code",
            where=where,
            fix="read that code, then set `trust_remote_code: true`",
        )
    if not known and not trusted:
        raise InputError(
            f"transformers {transformers_types.version()} does not know the model {kind!r}",
            where=where,
            fix="a newer transformers may: `pip install -U transformers`"
            + transformers_types.nearest_model_type(kind),
        )
    names = config.get("architectures")
    if not isinstance(names, list) or not names or trusted or not isinstance(names[0], str):
        return []
    if transformers_types.has_class(kind, names[0]):
        return []
    return [
        f"{where}: the weights were saved from {names[0]}, which transformers does not have for {kind!r}; "
        "if tensors do not fit, use a version converted for transformers (often `-hf`)"
    ]


def _dtype(config: Mapping[str, Any]) -> Dtype | None:
    for part in (config, config.get("text_config"), config.get("llm_config")):
        if isinstance(part, dict):
            found = _as_dtype(part.get("dtype") or part.get("torch_dtype"))
            if found:
                return found
    return None


def _as_dtype(value: object) -> Dtype | None:
    name = _plain(value)
    return next((dtype for dtype in DTYPES if dtype == name), None)


def _plain(value: object) -> str | None:
    return value.removeprefix("torch.") if isinstance(value, str) else None


def _most_common(tensors: Mapping[str, TensorInfo]) -> Dtype:
    count: Counter[str] = Counter()
    for tensor in tensors.values():
        if TORCH_NAMES.get(tensor.dtype) in get_args(Dtype):
            count[TORCH_NAMES[tensor.dtype]] += tensor.bytes
    return _as_dtype(count.most_common(1)[0][0]) or "float32" if count else "float32"


def _is_notice(name: str) -> bool:
    return name.upper().startswith(("LICENSE", "LICENCE", "NOTICE", "USE_POLICY"))
