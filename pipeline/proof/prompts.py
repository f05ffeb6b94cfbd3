"""Texts to compare two models on."""

from __future__ import annotations

BUILT_IN: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog, and then",
    "Q: What is the capital of France?\nA:",
    "def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n    return",
    "In 1969, 3.14159 x 2,048 = 6433.99; 10% of $1,200.50 is",
    "Größe, naïve façade, Ελληνικά, русский язык, 日本語のテキスト, العربية, हिन्दी",
    "emoji 🙂🚀 \t tabs,   many   spaces,\n\n\nblank lines, and symbols: <|x|> {}[]()/\\~^`@#",
    '{"name": "Ada", "born": 1815, "tags": ["maths", "engines"], "alive": false}',
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity",
)
"""Prose, a question, code, numbers, other scripts, odd white space, JSON: together they touch most of
what a tokenizer does, and rare tokens as well as common ones."""
