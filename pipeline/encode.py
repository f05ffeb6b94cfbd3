"""Examples of a data file as the token ids that a model trains on or is measured with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from pipeline.blueprint import Task
from pipeline.data import raise_together
from pipeline.errors import InputError
from pipeline.record import Record

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label of a token that does not count, as torch's cross-entropy has it."""


@dataclass(frozen=True)
class Example:
    """Token ids that go in, and the ids that should come out.

    For a causal model `labels` are as long as `input_ids` and stand at the position of the token that
    they name (the shift by one is made where the loss is taken); for an encoder-decoder model they are
    the target; for a classifier the one index of the class.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """The examples, and how many records had to be cut off at `max_length`."""

    examples: tuple[Example, ...]
    cut: int = 0


def encode(
    records: Sequence[Record],
    tokenizer: Any,
    task: Task,
    max_length: int,
    *,
    stride: int | None = None,
    count_prompt: bool = False,
    end_text: bool = False,
    classes: Mapping[str, int] | None = None,
) -> Encoded:
    """Tokenize records for a task.

    A `text` longer than `max_length` becomes windows of that length, each `stride` tokens after the one
    before; those that overlap count each token once, in the first window that holds it. By default
    they do not overlap.

    The prompt of a pair, and every message before the last answer, get `IGNORED` labels unless
    `count_prompt`. A completion ends with the tokenizer's end-of-sequence token; a plain `text` does
    when `end_text`. `classes` maps the names of a classifier's labels to their indices. Raises
    InputError, with file and line, for all records whose fields do not suit the task.
    """
    causal = task not in ("sequence_classification", "seq2seq_lm")
    examples: list[Example] = []
    wrong: list[InputError] = []
    cut = 0
    for record in records:
        try:
            example = _example(record, tokenizer, task, count_prompt, end_text, classes or {})
        except InputError as error:
            wrong.append(error)
            continue
        if causal and not record.has("messages") and not record.has("prompt", "completion"):
            examples += _windows(example, max_length, stride or max_length)
        else:
            cut += len(example.input_ids) > max_length
            examples.append(_shortened(example, max_length, task))
    if wrong:
        raise_together(wrong, records[0].place.file)
    if causal:
        examples = [e for e in examples if any(label != IGNORED for label in e.labels[1:])]
    return Encoded(tuple(examples), cut)


def encode_continuation(
    context: str, continuation: str, tokenizer: Any, task: Task, *, special: bool = True
) -> Example:
    """What follows a context, its tokens alone counting.

    Both are tokenized as one text, because a token may depend on what stands before it. `special`
    adds the tokenizer's special tokens, which a context in a chat template has already.
    """
    if task == "seq2seq_lm":
        before = _ids(tokenizer, context, special=special)
        return Example(tuple(before), tuple(_ids(tokenizer, continuation, special=False)))
    before = _opened(tokenizer, context, special=special)
    whole = _opened(tokenizer, context + continuation, special=special)
    start = min(len(before), len(whole) - 1)
    return Example(tuple(whole), (*[IGNORED] * start, *whole[start:]))


def batches(
    examples: Sequence[Example], size: int, pad_id: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Examples in groups of `size`, those of like length together, padded on the right.

    Each group comes with the indices of its examples.
    """
    by_length = sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids))
    for start in range(0, len(by_length), size):
        group = by_length[start : start + size]
        yield group, pad([examples[i] for i in group], pad_id)


def pad(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """One batch: `input_ids`, `attention_mask` and `labels`, each (examples, tokens)."""
    import torch

    width = max(len(example.input_ids) for example in examples)
    span = max(len(example.labels) for example in examples)
    ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(examples), span), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.input_ids)] = torch.tensor(example.input_ids)
        mask[row, : len(example.input_ids)] = 1
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pad_token(tokenizer: Any) -> int:
    """An id to fill up rows with; masked, so any id does where the tokenizer has none for it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in known if token is not None), 0)


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    found = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return [int(token) for token in found]


def _end(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


def _opened(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """Tokens of a text that is to go on: some tokenizers end every one."""
    ids = _ids(tokenizer, text, special=special)
    while ids and ids[-1:] == _end(tokenizer):
        ids.pop()
    return ids


def _example(
    record: Record,
    tokenizer: Any,
    task: Task,
    count_prompt: bool,
    end_text: bool,
    classes: Mapping[str, int],
) -> Example:
    """The whole record, however long."""
    if task == "sequence_classification":
        return _classified(record, tokenizer, classes)
    if task == "seq2seq_lm":
        return _translated(record, tokenizer)
    if record.has("messages"):
        return _chat(record, tokenizer, count_prompt)
    if record.has("prompt", "completion"):
        return _pair(record, tokenizer, count_prompt)
    if record.has("text"):
        return _text(record, tokenizer, end_text)
    raise _unsuited(record, "`text`, `prompt` and `completion`, or `messages`")


def _text(record: Record, tokenizer: Any, end_text: bool) -> Example:
    ids = _ids(tokenizer, record.text("text"), special=True)
    if end_text and ids[-1:] != _end(tokenizer):
        ids += _end(tokenizer)
    return Example(tuple(ids), tuple(ids))


def _windows(example: Example, width: int, stride: int) -> Iterator[Example]:
    seen = 0
    for start in range(0, len(example.input_ids), stride):
        end = start + width
        labels = (*[IGNORED] * (seen - start), *example.labels[max(seen, start) : end])
        yield Example(example.input_ids[start:end], labels)
        if end >= len(example.input_ids):
            return
        seen = end


def _pair(record: Record, tokenizer: Any, count_prompt: bool) -> Example:
    prompt = _opened(tokenizer, record.text("prompt"), special=True)
    completion = _ids(tokenizer, record.text("completion"), special=False) + _end(tokenizer)
    return _joined(prompt, completion, count_prompt)


def _chat(record: Record, tokenizer: Any, count_prompt: bool) -> Example:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "`messages` need a chat template, and the tokenizer has none",
            where=record.place,
            fix="write `prompt` and `completion` instead",
        )
    messages = record.fields["messages"]
    try:
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        before = tokenizer.apply_chat_template(
            messages[:-1] or messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates raise what they like
        raise InputError(
            f"the chat template refuses these messages: {error}",
            where=record.place,
            fix="give the roles in the order that the model's template wants",
        ) from error
    if messages[-1]["role"] != "assistant":
        before = ""
    # Some templates write the last answer otherwise than the prompt for it announces.
    same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(whole, before, strict=False))
    )
    prompt = _ids(tokenizer, whole[:same], special=False)
    return _joined(prompt, _ids(tokenizer, whole[same:], special=False), count_prompt)


def _joined(prompt: list[int], completion: list[int], count_prompt: bool) -> Example:
    hidden = prompt if count_prompt else [IGNORED] * len(prompt)
    return Example((*prompt, *completion), (*hidden, *completion))


def _translated(record: Record, tokenizer: Any) -> Example:
    for source, target in (("input", "target"), ("prompt", "completion")):
        if record.has(source, target):
            labels = _ids(tokenizer, record.text(target), special=True)
            if labels[-1:] != _end(tokenizer):
                labels += _end(tokenizer)
            return Example(tuple(_ids(tokenizer, record.text(source), special=True)), tuple(labels))
    raise _unsuited(record, "`input` and `target`")


def _classified(record: Record, tokenizer: Any, classes: Mapping[str, int]) -> Example:
    if not record.has("text", "label"):
        raise _unsuited(record, "`text` and `label`")
    label = record.fields["label"]
    index = classes.get(label) if isinstance(label, str) else label
    if isinstance(index, bool) or not isinstance(index, int) or index not in classes.values():
        raise InputError(
            f"the model has no class {label!r}",
            where=record.place,
            fix=f"its classes are: {', '.join(f'{name} ({i})' for name, i in classes.items())}",
        )
    return Example(tuple(_ids(tokenizer, record.text("text"), special=True)), (index,))


def _shortened(example: Example, max_length: int, task: Task) -> Example:
    if task == "sequence_classification":
        return Example(example.input_ids[:max_length], example.labels)
    return Example(example.input_ids[:max_length], example.labels[:max_length])


def _unsuited(record: Record, wanted: str) -> InputError:
    has = ", ".join(f"`{name}`" for name in record.fields)
    return InputError(
        f"the example has {has}, which this model cannot use",
        where=record.place,
        fix=f"it needs {wanted}",
    )
