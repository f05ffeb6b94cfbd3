"""The files that serve with a model besides its weights: tokenizer, processors, custom code, licence."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.blueprint import Blueprint
from pipeline.checkpoint.adapter import AdapterCheckpoint, inspect_adapter
from pipeline.checkpoint.base import BaseCheckpoint, inspect_base
from pipeline.checkpoint.filenames import (
    CHAT,
    CODE,
    EMBEDDER,
    NOTICE,
    PROCESSOR,
    TOKENIZER,
    VOCABULARY,
    matching,
)
from pipeline.checkpoint.source import Source


def copy_companions(blueprint: Blueprint, folder: Path) -> list[str]:
    """Copy, byte for byte, what serves with the model into the folder of its weights; returns the names.

    The tokenizer comes whole from the last adapter that brings one, or else from the base; a chat template
    of an adapter wins over the base's. Config, generation config and weights are the writer's own.
    """
    base = inspect_base(blueprint.base)
    patterns = [*PROCESSOR, *EMBEDDER, *NOTICE]
    if blueprint.base.trust_remote_code or base.custom_code:
        patterns += CODE
    return sorted({*_copy(base.source, patterns, folder), *copy_tokenizer(blueprint, folder)})


def copy_tokenizer(blueprint: Blueprint, folder: Path) -> list[str]:
    """Copy the tokenizer and the chat template alone; returns the names."""
    owner = _tokenizer_owner(blueprint)
    copied = _copy(owner.source, TOKENIZER, folder)
    if isinstance(owner, BaseCheckpoint):
        for adapter in _adapters(blueprint):
            copied += _copy(adapter.source, CHAT, folder)
    elif not has_chat_template(owner.source):
        copied += _keep_chat_template(inspect_base(blueprint.base).source, folder)
    return sorted(set(copied))


def tokenizer_folder(blueprint: Blueprint) -> Path | None:
    """A local folder with the tokenizer that belongs to the blueprint; None when nobody brings one."""
    owner = _tokenizer_owner(blueprint)
    names = matching(owner.source.files, TOKENIZER)
    if not names:
        return None
    config = [name for name in ("config.json",) if name in owner.source.files]
    return owner.source.fetch([*names, *config, *matching(owner.source.files, CODE)])


def chat_template(blueprint: Blueprint) -> str | None:
    """The template that the saved model will have in place of the tokenizer's own, if it is another one."""
    owner = _tokenizer_owner(blueprint)
    if isinstance(owner, BaseCheckpoint):
        adapters = reversed(_adapters(blueprint))
        brought = next((a.source for a in adapters if CHAT[0] in a.source.files), None)
        return _template_text(brought) if brought else None
    return (
        None
        if has_chat_template(owner.source)
        else _template_text(inspect_base(blueprint.base).source)
    )


def has_chat_template(source: Source) -> bool:
    """Whether a chat template lies beside the tokenizer or in its config."""
    if matching(source.files, CHAT):
        return True
    return bool((source.read_json("tokenizer_config.json") or {}).get("chat_template"))


def brings_tokenizer(source: Source) -> bool:
    """Whether a tokenizer lies there that can be loaded: one with a vocabulary."""
    return bool(matching(source.files, VOCABULARY))


def _tokenizer_owner(blueprint: Blueprint) -> AdapterCheckpoint | BaseCheckpoint:
    for adapter in reversed(_adapters(blueprint)):
        if brings_tokenizer(adapter.source):
            return adapter
    return inspect_base(blueprint.base)


def _adapters(blueprint: Blueprint) -> list[AdapterCheckpoint]:
    return [inspect_adapter(adapter) for adapter in blueprint.all_adapters]


def _keep_chat_template(source: Source, folder: Path) -> list[str]:
    """The base's chat template beside a tokenizer of the adapter that has none."""
    names = _copy(source, CHAT, folder)
    if names or (template := _template_text(source)) is None:
        return names
    (folder / CHAT[0]).write_text(template, encoding="utf-8")
    return [CHAT[0]]


def _template_text(source: Source) -> str | None:
    file = source.read_bytes(CHAT[0])
    if file is not None:
        return file.decode("utf-8")
    template = (source.read_json("tokenizer_config.json") or {}).get("chat_template")
    return template if isinstance(template, str) else None


def _copy(source: Source, patterns: Iterable[str], folder: Path) -> list[str]:
    names = matching(source.files, patterns)
    if not names:
        return []
    origin = source.fetch(names)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin / name, target)
    return names
