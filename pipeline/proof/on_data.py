"""A live model measured on the examples of a data file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.blueprint import Task
from pipeline.data import kind_of
from pipeline.encode import Example, encode, pad_token
from pipeline.errors import InputError
from pipeline.proof.figures import Figures
from pipeline.proof.loss import score, total
from pipeline.proof.tasks import answer, choose
from pipeline.proof.write import Writer
from pipeline.record import Kind, Record

if TYPE_CHECKING:
    from pipeline.realise.live import LiveModel
    from pipeline.run import RunContext

MOST_OF_A_TEXT = 2048
"""Tokens of a window of text that nobody asked to be longer: at a context of 128k tokens and as many
entries in the vocabulary, the logits of one window would take 60 GB."""

MOST = 1 << 20
"""Tokens at once where neither model nor tokenizer knows a limit: more than any has."""


@dataclass(frozen=True)
class Way:
    """How to measure; the settings of `evaluate` tell what each means."""

    window: int | None
    stride: int | None
    batch_size: int
    chat: bool
    max_new_tokens: int


def on_data(records: Sequence[Record], live: LiveModel, run: RunContext, way: Way) -> Figures:
    """Measure what the examples, which are of one kind, are for. Raises InputError."""
    kind = kind_for(records, live.blueprint.base.task)
    if kind == "text":
        return _know(records, live, run, way)
    writer = Writer(live.model, live.tokenizer, live.blueprint.base.task)
    window = window_of(live, way.window)
    if kind == "choices":
        with run.bar("evaluating", sum(len(r.fields["choices"]) for r in records)) as bar:
            return choose(
                records,
                writer,
                window=window,
                chat=way.chat,
                batch_size=way.batch_size,
                done=bar.advance,
            )
    with run.bar("evaluating", len(records)) as bar:
        return answer(
            records,
            writer,
            window=window,
            chat=way.chat,
            max_new_tokens=way.max_new_tokens,
            done=bar.advance,
        )


def check_chat(live: LiveModel, run: RunContext) -> None:
    """Raise InputError when there is no chat template to put a question into."""
    if not getattr(live.tokenizer, "chat_template", None):
        raise InputError(
            "the tokenizer has no chat template",
            where=f"{run.step_id}.chat",
            fix="remove `chat: true`, to send questions and prompts as they are",
        )


def kind_for(records: Sequence[Record], task: Task) -> Kind:
    """What the examples of a file are for. Raises InputError where a model loaded for `task` is not."""
    kind = kind_of(records)
    if kind != "text" and task == "sequence_classification":
        raise InputError(
            "a classification model answers no questions",
            where=records[0].place.file,
            fix="give `text` and `label`, or load the base with `task: causal_lm`",
        )
    return kind


def window_of(live: LiveModel, asked: int | None, most: int = MOST) -> int:
    """Tokens at once: as asked, else as many as model and tokenizer know positions for, up to `most`.

    Raises InputError when more are asked for than they know.
    """
    positions = getattr(live.model.config.get_text_config(), "max_position_embeddings", None)
    known = (positions, live.tokenizer.model_max_length, MOST)
    limit = min(n for n in known if isinstance(n, int) and n > 1)
    if asked is not None and asked > limit:
        raise InputError(
            f"the model and its tokenizer know {limit} positions, and `window` is {asked}",
            where=live.blueprint.base.model,
            fix="lower `window`, or leave it out",
        )
    return asked or min(limit, most)


@dataclass(frozen=True)
class Known:
    """Texts, pairs, messages or labelled texts as a model reads them."""

    examples: Sequence[Example]
    window: int
    """Tokens at once."""
    stride: int
    """Tokens from one window of a text to the next."""


def read_for(live: LiveModel, records: Sequence[Record], run: RunContext, way: Way) -> Known:
    """What to ask a model to see how well it knows the examples; warns of those that were cut off.

    Raises InputError when nothing of them can be measured.
    """
    task = live.blueprint.base.task
    window = window_of(live, way.window, MOST_OF_A_TEXT)
    stride = way.stride or window // 2
    if stride >= window:
        raise InputError(
            f"windows of {window} tokens that are {stride} apart leave tokens without any before them",
            where=f"{run.step_id}.stride",
            fix="lower `stride`",
        )
    classes = dict(live.model.config.label2id or {})
    encoded = encode(records, live.tokenizer, task, window, stride=stride, classes=classes)
    if not encoded.examples:
        raise InputError(
            "no token of it can be measured: every example is a single token, or its prompt fills "
            "`window`",
            where=records[0].place.file,
            fix="give longer texts, or raise `window`",
        )
    if encoded.cut:
        run.warn(f"{encoded.cut} of {len(records)} examples were cut off at {window} tokens")
    return Known(encoded.examples, window, stride)


def _know(records: Sequence[Record], live: LiveModel, run: RunContext, way: Way) -> Figures:
    task = live.blueprint.base.task
    known = read_for(live, records, run, way)
    with run.bar("evaluating", len(known.examples)) as bar:
        scores = score(
            live.model,
            task,
            known.examples,
            batch_size=way.batch_size,
            pad_id=pad_token(live.tokenizer),
            done=bar.advance,
        )
    loss = total(scores)
    counted = enumerate(scores, start=1)
    lost = tuple(f"example {n} of {len(scores)}" for n, one in counted if one.lost)
    if task == "sequence_classification":
        values = {"loss": loss.mean, "accuracy": loss.accuracy}
        return Figures(values, {"examples": loss.counted}, lost=lost)
    values = {"loss": loss.mean, "perplexity": loss.perplexity}
    measured_on = {"tokens": loss.counted}
    if task != "seq2seq_lm":
        measured_on |= {"window": known.window, "stride": known.stride}
    return Figures(values, measured_on, lost=lost)
