"""The model card (README.md) of a folder that Mergeline writes.

Its metadata are the Hub's: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline import __version__
from pipeline.blueprint import Adapter, Blueprint, Fold
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.checkpoint.source import Source, is_path

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")
_RECEIPT = (
    "## Is it whole?",
    "",
    "`mergeline.json` is the receipt: what this folder was made of, how, and what its files hash to. "
    "`mergeline verify` on this folder checks it, `mergeline replay` makes it again.",
)
_PIPELINES: Mapping[str, str] = {
    "causal_lm": "text-generation",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "feature_extraction": "feature-extraction",
    "image_text_to_text": "image-text-to-text",
    "speech_seq2seq": "automatic-speech-recognition",
}


def write_card(folder: Path, blueprint: Blueprint) -> None:
    """Write README.md: what was made of what, in the Hub's metadata and in words."""
    head = yaml.safe_dump(_metadata(blueprint), sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\n# {_title(blueprint)}\n\n{_body(blueprint)}"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _metadata(blueprint: Blueprint) -> dict[str, Any]:
    base_card = _front_matter(inspect_base(blueprint.base).source)
    found: dict[str, Any] = {}
    for key in ("license", "license_name", "license_link", "language"):
        if key in base_card:
            found[key] = base_card[key]
    base = _hub_id(blueprint)
    if base:
        found["base_model"] = base
        if blueprint.folds:
            found["base_model_relation"] = "finetune"
        elif blueprint.quantized:
            found["base_model_relation"] = "quantized"
    found["library_name"] = "transformers"
    if blueprint.base.task in _PIPELINES:
        found["pipeline_tag"] = _PIPELINES[blueprint.base.task]
    found["tags"] = ["mergeline", *(["lora", "merged"] if blueprint.folds else [])]
    return found


def _hub_id(blueprint: Blueprint) -> str | None:
    """The base's id on the Hub: as the recipe has it, or as the adapters' training named it."""
    named = [
        blueprint.base.model,
        *(inspect_adapter(adapter).base_model_name for adapter in blueprint.all_adapters),
    ]
    return next(
        (name for name in named if name and name.count("/") == 1 and not is_path(name)), None
    )


def _title(blueprint: Blueprint) -> str:
    names = [
        _name(blueprint.base.model),
        *(_name(adapter.path) for adapter in blueprint.all_adapters),
    ]
    return " + ".join(names)


def _body(blueprint: Blueprint) -> str:
    base = blueprint.base
    found = inspect_base(base)
    lines = [
        f"Made with Mergeline {__version__}. It loads like any model, without PEFT.",
        "",
        "## Base",
        "",
    ]
    lines += [f"- model: `{_name(base.model) if is_path(base.model) else base.model}`"]
    lines += [f"- commit: `{found.source.commit}`"] if found.source.commit else []
    lines += [f"- architecture: {found.architecture}"]
    lines += [f"- precision: {_precision(blueprint)}", ""]
    for number, fold in enumerate(blueprint.folds, start=1):
        lines += [
            f"## Merge{f' {number}' if len(blueprint.folds) > 1 else ''}",
            "",
            *_fold(fold),
            "",
        ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    return "\n".join([*lines, "## Made with", "", versions, "", *_RECEIPT, ""])


def _precision(blueprint: Blueprint) -> str:
    quantization = blueprint.base.quantization
    own = blueprint.base.dtype or inspect_base(blueprint.base).dtype
    if quantization is None:
        return own
    double = ", double quantization" if quantization.double_quant else ""
    kind = f"{quantization.kind} of bitsandbytes{double}"
    if not blueprint.dequantize:
        return kind
    return f"{kind}, dequantized{f' to {blueprint.dequantize_dtype}' if blueprint.dequantize_dtype else ''}"


def _fold(fold: Fold) -> list[str]:
    lines = ["| adapter | type | rank | modules | weight |", "| --- | --- | --- | --- | --- |"]
    return [*lines, *(_row(adapter) for adapter in fold.adapters)]


def _row(adapter: Adapter) -> str:
    found = inspect_adapter(adapter)
    name = _name(adapter.path) if is_path(adapter.path) else adapter.path
    at = f" at `{found.source.commit}`" if found.source.commit else ""
    targets = found.targets.replace("|", "\\|")
    return f"| `{name}`{at} | {found.peft_type} | {found.rank or ''} | {targets} | {adapter.weight:g} |"


def _name(reference: str) -> str:
    """The last part of a path or id: a card that is published should not tell of its author's disk."""
    return reference.replace("\\", "/").rstrip("/").rpartition("/")[2] or reference


def _front_matter(source: Source) -> Mapping[str, Any]:
    """Metadata of a README.md, or nothing where there are none that can be read."""
    text = (source.read_bytes("README.md") or b"").decode("utf-8", errors="replace")
    if not text.startswith("---"):
        return {}
    try:
        parsed = yaml.safe_load(text[3:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
