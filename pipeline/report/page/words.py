"""How the figures of a run are called and written on a page."""

from __future__ import annotations

import math

from pipeline.manifest import Figure
from pipeline.report.units import figure, size

_LABELS = {
    "error": "relative error of the logits",
    "kl": "KL divergence, nats",
    "top1": "positions with the same likeliest token",
    "max_diff": "largest difference of a logit",
    "mean_diff": "mean difference of the logits",
    "kept": "adapters' effect that is kept",
    "same_text": "tokens written alike, at least",
    "positions": "positions compared",
    "modules": "modules compared",
    "module_error": "largest error of a module",
    "delta_kept": "delta that is in the saved weights",
    "modules_merged": "modules merged",
    "modules_changed": "modules changed by it",
    "bytes": "size of the weights",
    "base_bytes": "size of the base",
    "share": "size against the base",
    "first_loss": "loss at the start",
    "train_loss": "loss at the end",
    "trainable_parameters": "parameters trained",
}
_PERCENT = {
    "error", "top1", "kept", "module_error", "delta_kept", "share", "acc", "acc_norm", "exact_match",
}  # fmt: skip


def label(name: str) -> str:
    """A figure's name in words, where it has some."""
    return _LABELS.get(name, name.replace("_", " "))


def amount(name: str, value: Figure) -> str:
    """A figure as a person reads it: shares in percent, bytes in their unit."""
    last = name.rpartition(".")[2]
    if isinstance(value, float) and last in _PERCENT:
        return percent(value)
    if isinstance(value, int) and not isinstance(value, bool) and last.endswith("bytes"):
        return size(value)
    return figure(value)


def percent(value: float) -> str:
    """Three digits: 0.832 %, 98 %. What is a little short of all is not rounded up to it: 99.98 %."""
    if math.isinf(value):
        return "infinite"
    text = f"{value * 100:.3g}"
    return f"{min(value * 100, 99.99):.2f} %" if text == "100" and value < 1 else f"{text} %"
