"""The same questions to several models: texts to predict, and examples to be known well."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.encode import Example, pad_token
from pipeline.errors import InputError
from pipeline.proof.logits import LONGEST, answers, tokenized
from pipeline.proof.loss import Score, score
from pipeline.proof.on_data import Way, read_for
from pipeline.proof.prompts import BUILT_IN
from pipeline.proof.reference import random_tokens
from pipeline.record import Record

if TYPE_CHECKING:
    import torch

    from pipeline.realise.live import LiveModel
    from pipeline.run import RunContext

_MOST = 1 << 29
"""Bytes of the logits of one model: those of all positions that are compared are in memory together."""
_WAY = Way(window=None, stride=None, batch_size=4, chat=False, max_new_tokens=0)


@dataclass(frozen=True)
class Questions:
    """Token ids, so that all models are asked exactly the same."""

    token_ids: tuple[tuple[int, ...], ...]
    """Texts whose predictions are compared."""
    examples: Sequence[Example] | None
    """Of the data, for the loss; None where there is none."""
    pad_id: int = 0


@dataclass(frozen=True)
class Seen:
    """What a model made of the questions."""

    logits: list[torch.Tensor]
    """For each text (positions, classes), in the dtype that the model computes in."""
    scores: list[Score] | None
    """For each example."""


def questions(live: LiveModel, run: RunContext, records: Sequence[Record] | None) -> Questions:
    """Questions from the examples of a data file, or from built-in texts where there are none.

    Raises InputError when nothing of the data can be measured.
    """
    if records is not None:
        known = read_for(live, records, run, _WAY)
        return Questions(_sample(known.examples, live), known.examples, pad_token(live.tokenizer))
    try:
        ids = tokenized(live.tokenizer, BUILT_IN)
    except InputError:
        run.note("there is no tokenizer, so random tokens are compared")
        ids = random_tokens(live.model)
    return Questions(tuple(map(tuple, ids)), None)


def ask(live: LiveModel, run: RunContext, asked: Questions) -> Seen:
    """Put the questions to a model."""
    task = live.blueprint.base.task
    logits = list(answers(live.model, task, asked.token_ids))
    if asked.examples is None:
        return Seen(logits, None)
    with run.bar("evaluating", len(asked.examples)) as bar:
        scores = score(
            live.model,
            task,
            asked.examples,
            batch_size=_WAY.batch_size,
            pad_id=asked.pad_id,
            done=bar.advance,
        )
    return Seen(logits, scores)


def _sample(examples: Sequence[Example], live: LiveModel) -> tuple[tuple[int, ...], ...]:
    """The texts of examples drawn with a fixed seed, as many as there is room for the logits of."""
    classes = getattr(live.model.config.get_text_config(), "vocab_size", 1)
    room = _MOST // (4 * classes)
    chosen: list[tuple[int, ...]] = []
    for example in random.Random(0).sample(list(examples), len(examples)):
        ids = example.input_ids[:LONGEST]
        room -= len(ids)
        if chosen and room < 0:
            break
        chosen.append(ids)
    return tuple(chosen)
