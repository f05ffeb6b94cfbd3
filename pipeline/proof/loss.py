"""The loss of a live model on examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.blueprint import Task
from pipeline.encode import IGNORED, Example, batches
from pipeline.proof.device import input_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Score:
    """What a model makes of one example."""

    likelihood: float
    """Sum of the log-likelihoods of the tokens that count, in nats."""
    counted: int
    """Tokens, or for a classifier 1."""
    right: int
    """How many of them the model found likeliest."""

    @property
    def lost(self) -> bool:
        """Whether the model gave NaN in place of predictions."""
        return math.isnan(self.likelihood)


@dataclass(frozen=True)
class Loss:
    """Sum of the negative log-likelihood, in nats, over all that counted."""

    total: float
    counted: int
    """Tokens, or for a classifier examples."""
    right: int
    """How many of them the model found likeliest."""

    @property
    def mean(self) -> float:
        return self.total / self.counted

    @property
    def perplexity(self) -> float:
        """exp(mean), infinite where that is too large for a float; NaN of a loss that is NaN."""
        return math.inf if self.mean > 700 else math.exp(self.mean)

    @property
    def accuracy(self) -> float:
        return self.right / self.counted


def total(scores: Sequence[Score]) -> Loss:
    """The loss over examples that were scored one by one."""
    return Loss(
        -math.fsum(s.likelihood for s in scores),
        sum(s.counted for s in scores),
        sum(s.right for s in scores),
    )


def score(
    model: Any,
    task: Task,
    examples: Sequence[Example],
    *,
    batch_size: int,
    pad_id: int,
    done: Callable[[float], object] = lambda examples: None,
) -> list[Score]:
    """Each example by itself, in their order; `done` is told of each batch.

    Log-likelihoods are taken in float32 and summed in float64, whatever the model computes in.
    """
    import torch

    device = input_device(model)
    if task == "sequence_classification" and model.config.get_text_config().pad_token_id is None:
        batch_size = 1  # the model could not tell where the text ends
    scores: dict[int, Score] = {}
    for places, batch in batches(examples, batch_size, pad_id):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        labels = batch["labels"] if task == "seq2seq_lm" else batch.pop("labels")
        with torch.inference_mode():
            logits = model(**batch).logits
        for place, row, wanted in zip(places, *_aligned(logits, labels, task), strict=True):
            counts = wanted != IGNORED
            row, wanted = row[counts].float(), wanted[counts]
            likelihood = torch.log_softmax(row, dim=-1).gather(-1, wanted[:, None])
            right = int((row.argmax(-1) == wanted).sum())
            scores[place] = Score(likelihood.double().sum().item(), len(wanted), right)
        done(len(places))
    return [scores[place] for place in range(len(examples))]


def _aligned(
    logits: torch.Tensor, labels: torch.Tensor, task: Task
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (rows, positions, classes) and labels (rows, positions) that belong together."""
    if task == "sequence_classification":
        return logits[:, None, :], labels
    if task == "seq2seq_lm":
        return logits, labels
    return logits[:, :-1], labels[:, 1:]
