"""How the figures of a run are called and written on a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.manifest import Figure
from pipeline.report.units import duration, figure, size

Unit = Literal["", "%", "B", "s"]
"""`%` of a share from 0 to 1, `B` of bytes, `s` of seconds."""


Better = Literal["", "low", "high"]
"""Which of two figures is the better one, where that can be said."""


@dataclass(frozen=True)
class Said:
    """A name and what is said of it."""

    name: str
    text: str
    bound: str = ""
    """What a figure was held against."""


@dataclass(frozen=True)
class _Word:
    label: str
    unit: Unit = ""
    better: Better = ""


_WORDS = {
    # verify and compare_merges
    "error": _Word("relative error of the logits", "%", "low"),
    "kl": _Word("KL divergence, nats", "", "low"),
    "top1": _Word("positions with the same likeliest token", "%", "high"),
    "max_diff": _Word("largest difference of a logit", "", "low"),
    "mean_diff": _Word("mean difference of the logits", "", "low"),
    "kept": _Word("adapters' effect that is kept", "%", "high"),
    "same_text": _Word("tokens written alike, at least", "", "high"),
    "positions": _Word("positions compared"),
    "modules": _Word("modules compared"),
    "module_error": _Word("largest error of a module", "%", "low"),
    "mean_module_error": _Word("mean error of the modules", "%", "low"),
    "delta_kept": _Word("delta that is in the saved weights", "%", "high"),
    "recommended": _Word("recommended way to merge"),
    # merge, save, save_adapter
    "modules_merged": _Word("modules merged"),
    "modules_changed": _Word("modules changed by it"),
    "tensors": _Word("tensors saved"),
    "bytes": _Word("size of the weights", "B", "low"),
    "base_bytes": _Word("size of the base", "B"),
    "share": _Word("size against the base", "%"),
    # train_adapter
    "first_loss": _Word("loss at the start"),
    "train_loss": _Word("loss at the end", "", "low"),
    "steps": _Word("training steps"),
    "examples": _Word("examples"),
    "trainable_parameters": _Word("parameters trained"),
    "seconds": _Word("time of the training", "s", "low"),
    # evaluate
    "loss": _Word("loss, nats a token", "", "low"),
    "perplexity": _Word("perplexity", "", "low"),
    "tokens": _Word("tokens measured"),
    "accuracy": _Word("right labels", "%", "high"),
    "window": _Word("tokens seen at once"),
    "stride": _Word("tokens from window to window"),
    "acc": _Word("right choices", "%", "high"),
    "acc_norm": _Word("right choices, by length", "%", "high"),
    "exact_match": _Word("right answers", "%", "high"),
    "questions": _Word("questions asked"),
    "prompts": _Word("prompts answered"),
}

QUALITIES = (
    "loss", "perplexity", "kl", "error", "mean_module_error", "module_error", "exact_match", "acc",
    "accuracy", "top1", "train_loss",
)  # fmt: skip
"""Figures that tell how good a model is, the most telling first."""


def label(name: str) -> str:
    """A figure's name in words, where it has some: `base: loss, nats a token` of `base.loss`."""
    of, _, last = name.rpartition(".")
    if last not in _WORDS:
        return name.replace("_", " ")
    return f"{of}: {_WORDS[last].label}" if of else _WORDS[last].label


def has_words(name: str) -> bool:
    """Whether a figure is known here."""
    return _last(name) in _WORDS


def unit(name: str) -> Unit:
    """In what a figure is measured."""
    return _WORDS[_last(name)].unit if has_words(name) else ""


def better(name: str) -> Better:
    """Which of two figures is better, where that can be said; the base's own says nothing of a job."""
    return _WORDS[_last(name)].better if has_words(name) and ".base." not in f".{name}" else ""


def amount(name: str, value: Figure) -> str:
    """A figure as a person reads it: shares in percent, bytes in their unit."""
    if isinstance(value, float) and unit(name) == "%":
        return percent(value)
    if isinstance(value, int) and not isinstance(value, bool) and unit(name) == "B":
        return size(value)
    if isinstance(value, float) and unit(name) == "s":
        return duration(value)
    return figure(value)


def percent(value: float) -> str:
    """Three digits: 0.832 %, 98 %. What is a little short of all is not rounded up to it: 99.98 %."""
    if math.isinf(value):
        return "infinite"
    text = f"{value * 100:.3g}"
    return f"{min(value * 100, 99.99):.2f} %" if text == "100" and value < 1 else f"{text} %"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
