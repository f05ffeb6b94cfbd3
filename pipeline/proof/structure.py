"""Do the parts of a model folder fit each other? Told by config, index and headers; no receipt is needed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.accounting.architectures import tensor_shapes
from pipeline.accounting.layout import Stored
from pipeline.checkpoint.headers import TORCH_NAMES
from pipeline.checkpoint.quantization import check_quantized, read_quantization
from pipeline.checkpoint.shards import Weights, find_weights
from pipeline.checkpoint.source import Source, locate
from pipeline.proof.configs import read_config
from pipeline.proof.findings import Findings
from pipeline.proof.tensors import same_bytes

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "shared", "embed_in")
_HEADS = ("lm_head.weight", "embed_out.weight")


def check_structure(folder: Path, found: Findings) -> None:
    """Add what does not fit to the findings."""
    with found.refusals():
        source = locate(str(folder))
        config = source.read_json("config.json")
        if config is None:
            found.fault("config.json", "is missing")
            return
        weights = find_weights(source)
        if weights.pickle:
            found.skipped.append("the weights are pickles, which are not opened")
            return
        tensors = _check_shards(source, weights, found)
        _check_quantization(config, tensors, found)
        if "quantization_config" not in config:
            _check_tensors(folder, config, tensors, found)
            _check_dtype(config, tensors, found)
        _check_sizes(folder, config, tensors, found)
        found.checked.append(f"{len(tensors)} tensors against config, index and tokenizer")


def _check_shards(source: Source, weights: Weights, found: Findings) -> dict[str, Stored]:
    """Every tensor lies in the one file that the index names, and no file of weights is left over."""
    tensors: dict[str, Stored] = {}
    misplaced: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    assert source.folder is not None
    for name in weights.files:
        for key, info in source.read_header(name).tensors.items():
            if key in tensors:
                found.fault(f"{name}: {key}", f"lies in {tensors[key].file.name} too")
            elif weights.weight_map and key not in weights.weight_map:
                found.fault(f"{name}: {key}", f"is not in {weights.index[0]}")
            elif weights.weight_map.get(key, name) != name:
                misplaced[name, weights.weight_map[key]].append(key)
            tensors[key] = Stored(source.folder / name, info)
    for (name, other), keys in misplaced.items():
        what = f"holds {len(keys)} tensors that the index puts into {other}, such as {keys[0]}"
        found.fault(name, f"{what}: the files were mixed up")
    for key in sorted(weights.weight_map.keys() - tensors.keys()):
        found.fault(f"{weights.weight_map[key]}: {key}", "is missing: the index names it")
    for name in sorted(source.files.keys() - set(weights.files)):
        if name.endswith(".safetensors") and "/" not in name:
            found.fault(name, "belongs to no index")
    return tensors


def _check_quantization(
    config: Mapping[str, Any], tensors: Mapping[str, Stored], found: Findings
) -> None:
    with found.refusals():
        said = read_quantization(config, "config.json")
        check_quantized(said, {key: one.info for key, one in tensors.items()}, "config.json")
    packed = next((key for key in tensors if ".quant_state.bitsandbytes__" in key), None)
    if packed and "quantization_config" not in config:
        found.fault("config.json", f"has no `quantization_config`, and {packed} is there")


def _check_tensors(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Stored], found: Findings
) -> None:
    """All tensors of the architecture, in their shapes, and no others; a tied head holds the embedding."""
    embedding = _embedding(tensors)
    tied = [key for key in _HEADS if key in tensors and config.get("tie_word_embeddings") is True]
    for key in tied:
        if embedding and not _equal(tensors[key], tensors[embedding]):
            found.fault(key, f"differs from {embedding}, and config.json says that they are tied")
    there = {key: one.info.shape for key, one in tensors.items() if key not in tied}
    # `_check_sizes` holds the vocabulary against the config.
    rows = {"vocab_size": there[embedding][0]} if embedding and there[embedding] else {}
    shapes = tensor_shapes({**config, **rows})
    if shapes is None:
        kind = config.get("model_type")
        found.skipped.append(
            f"names and shapes of the tensors: those of a {kind} are not known here"
        )
        return
    if shapes != there:  # the config may leave sizes to the architecture
        shapes = tensor_shapes({**read_config(folder), **rows}) or shapes
    for key in sorted(shapes.keys() - there.keys()):
        found.fault(key, "is missing: the model that config.json describes has it")
    for key in sorted(there.keys() - shapes.keys()):
        found.fault(key, "is not of the model that config.json describes")
    for key in sorted(there.keys() & shapes.keys()):
        if there[key] != shapes[key]:
            ours, theirs = (" x ".join(map(str, shape)) for shape in (there[key], shapes[key]))
            found.fault(key, f"is {ours}, and {theirs} in the model that config.json describes")


def _equal(a: Stored, b: Stored) -> bool:
    return (a.info.dtype, a.info.shape) == (b.info.dtype, b.info.shape) and same_bytes(a, b)


def _check_dtype(config: Mapping[str, Any], tensors: Mapping[str, Stored], found: Findings) -> None:
    said = config.get("dtype") or config.get("torch_dtype")
    there = {TORCH_NAMES.get(one.info.dtype) for one in tensors.values()}
    if isinstance(said, str) and said not in there:
        found.fault("config.json", f"says {said}, and no tensor is that")


def _check_sizes(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Stored], found: Findings
) -> None:
    """The vocabulary has as many rows as the config says, and one for every token."""
    key = _embedding(tensors)
    if key is None or len(tensors[key].info.shape) != 2:
        found.skipped.append("the size of the vocabulary: no embedding of a known name")
        return
    rows = tensors[key].info.shape[0]
    said = (config.get("text_config") or config).get("vocab_size")
    if isinstance(said, int) and said != rows:
        found.fault("config.json", f"says vocab_size {said}, and {key} has {rows} rows")
    tokens = _highest_token(folder / "tokenizer.json")
    if tokens is None:
        found.skipped.append("the size of the tokenizer: there is no tokenizer.json that tells it")
    elif tokens >= rows:
        found.fault("tokenizer.json", f"makes tokens up to {tokens}, and {key} has {rows} rows")


def _embedding(tensors: Mapping[str, Stored]) -> str | None:
    ends = tuple(f"{name}.weight" for name in _EMBEDDINGS)
    return next((key for key in tensors if key.endswith(ends)), None)


def _highest_token(file: Path) -> int | None:
    try:
        parsed = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = parsed["model"]["vocab"]
        ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else range(len(vocabulary))
        return int(max([*ids, *(token["id"] for token in parsed.get("added_tokens", []))]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
