"""Which files of a model's folder are which, by their names. Patterns are globs; `*` stays in one folder."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

CONFIG = ("config.json", "generation_config.json")
CARD = ("README.md",)
CHAT = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*")
VOCABULARY = (
    "tokenizer.json",
    "*.model",
    "*.model.v*",
    "*.spm",
    "*.tiktoken",
    "vocab*.json",
    "vocab*.txt",
    "vocab.bpe",
    "tekken.json",
)
TOKENIZER = (
    *VOCABULARY,
    *CHAT,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "normalizer.json",
    "target_vocab.json",
)
PROCESSOR = (
    "*processor*.json",
    "*preprocessor*.json",
    "feature_extract*.json",
    "audio_tokenizer*.json",
)
EMBEDDER = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "[0-9]_*/*",
)
"""How sentence-transformers pools the outputs; without these the model embeds differently."""
NOTICE = ("LICEN[CS]E*", "NOTICE*", "USE_POLICY*", "Notice*", "License*", "license*")
CODE = ("*.py",)


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that fit at least one of the patterns, in their order."""
    wanted = tuple(patterns)
    return [name for name in names if any(_fits(name, pattern) for pattern in wanted)]


def _fits(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)
