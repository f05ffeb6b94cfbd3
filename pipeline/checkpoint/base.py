"""A base model before it is loaded: config, precision, files of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from pipeline.blueprint import Base, Dtype, Quantization
from pipeline.checkpoint import transformers_types
from pipeline.checkpoint.filenames import (
    CARD,
    CODE,
    CONFIG,
    EMBEDDER,
    NOTICE,
    PROCESSOR,
    TOKENIZER,
    matching,
)
from pipeline.checkpoint.headers import TORCH_NAMES, TensorInfo
from pipeline.checkpoint.quantization import as_dtype, check_quantized, read_quantization
from pipeline.checkpoint.shards import Weights, find_weights
from pipeline.checkpoint.source import Source, locate
from pipeline.errors import InputError

_SERVING = (*CONFIG, *CARD, *TOKENIZER, *PROCESSOR, *EMBEDDER, *NOTICE, *CODE)


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
    def architecture(self) -> str:
        """Class of the model that was saved, or its type where the config names no class."""
        names = self.config.get("architectures")
        first = names[0] if isinstance(names, list) and names else names
        return first if isinstance(first, str) and first else self.model_type

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
        files: dict[str, str] = {}
        headers = self.source.read_headers(self.weights.files)
        for file, header in zip(self.weights.files, headers, strict=True):
            for name in header.tensors.keys() & files.keys():
                raise InputError(
                    f"is in {files[name]} too, and nothing says which one counts",
                    where=f"{self.source.where(file)}: {name}",
                    fix="copy or download the model again",
                )
            found.update(header.tensors)
            files.update(dict.fromkeys(header.tensors, file))
        return found


def inspect_base(base: Base) -> BaseCheckpoint:
    """Read what a base is from its config and file names, without its weights. Raises InputError."""
    source = locate(base.model, base.revision)
    config = _read_config(source)
    where = source.where("config.json")
    quantization = read_quantization(config, where)
    weights = find_weights(source)
    if weights.pickle and not base.allow_pickle:
        raise InputError(
            f"has only pickled weights ({weights.files[0]}), which can carry code",
            where=base.model,
            fix="convert them to safetensors, or set `allow_pickle: true` to read them with weights_only",
        )
    warnings = [*_check_code(config, where, base.trust_remote_code)]
    found = BaseCheckpoint(
        source=source.only([*weights.files, *weights.index, *matching(source.files, _SERVING)]),
        config=config,
        quantization=quantization,
        dtype=_dtype(config) or "float32",
        weights=weights,
        warnings=tuple(warnings),
    )
    if source.folder is not None:
        _check_tensors(found)
        check_quantized(quantization, found.tensors, where)
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


def _check_tensors(base: BaseCheckpoint) -> None:
    """Every header is sound, and holds what the index says."""
    missing = sorted(base.weights.weight_map.keys() - base.tensors.keys())
    if missing and not base.pickle:
        raise InputError(
            f"names {len(missing)} tensors that are in none of its files: {missing[0]}, ...",
            where=base.source.where(base.weights.index[0]),
            fix="copy or download the model again",
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
            found = as_dtype(part.get("dtype") or part.get("torch_dtype"))
            if found:
                return found
    return None


def _most_common(tensors: Mapping[str, TensorInfo]) -> Dtype:
    count: Counter[str] = Counter()
    for tensor in tensors.values():
        if TORCH_NAMES.get(tensor.dtype) in get_args(Dtype):
            count[TORCH_NAMES[tensor.dtype]] += tensor.bytes
    return as_dtype(count.most_common(1)[0][0]) or "float32" if count else "float32"
