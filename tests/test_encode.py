from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.encode import IGNORED, Example, batches, encode, encode_continuation, pad
from pipeline.errors import InputError, Place
from pipeline.record import Record
from tests.fixtures.models import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    return AutoTokenizer.from_pretrained(build_tokenizer(folder, chat=True))


def record(**fields: Any) -> Record:
    return Record(fields, Place("data.jsonl", 3))


def counted(tokenizer: Any, example: Example) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def test_every_token_of_a_text_counts(tokenizer: Any) -> None:
    (example,) = encode([record(text="Load the base")], tokenizer, "causal_lm", 64).examples
    assert example.input_ids == example.labels == tuple(tokenizer("Load the base")["input_ids"])


def test_a_long_text_goes_into_pieces_that_lose_no_token(tokenizer: Any) -> None:
    text = "attach the adapter, " * 9
    encoded = encode([record(text=text)], tokenizer, "causal_lm", 16)
    assert [i for e in encoded.examples for i in e.input_ids] == tokenizer(text)["input_ids"]
    assert max(len(e.input_ids) for e in encoded.examples) == 16
    assert encoded.cut == 0


def test_windows_overlap_and_count_every_token_once_after_as_much_as_they_can(
    tokenizer: Any,
) -> None:
    text = "attach the adapter, " * 9
    ids = tokenizer(text)["input_ids"]
    encoded = encode([record(text=text)], tokenizer, "causal_lm", 16, stride=5)
    assert [i for e in encoded.examples for i in e.labels if i != IGNORED] == ids
    first, *rest = encoded.examples
    assert first.labels == tuple(ids[:16])
    assert {e.labels.count(IGNORED) for e in rest} == {16 - 5}
    assert all(
        e.input_ids == tuple(ids[5 * n : 5 * n + 16]) for n, e in enumerate(encoded.examples)
    )


def test_a_text_that_ends_with_a_window_needs_no_further_one(tokenizer: Any) -> None:
    text = "attach the adapter, " * 9
    length = len(tokenizer(text)["input_ids"])
    encoded = encode([record(text=text)], tokenizer, "causal_lm", length, stride=5)
    assert len(encoded.examples) == 1


def test_a_continuation_is_what_the_joint_text_has_more(tokenizer: Any) -> None:
    example = encode_continuation(
        "What is the capital of France?", " Paris", tokenizer, "causal_lm"
    )
    whole = tokenizer("What is the capital of France? Paris")["input_ids"]
    assert example.input_ids == tuple(whole)
    assert counted(tokenizer, example) == " Paris"


def test_all_records_that_do_not_suit_the_task_are_named(tokenizer: Any) -> None:
    records = [record(input="a", target="b"), record(text="a"), record(text=3)]
    with pytest.raises(InputError, match="2 examples are wrong") as caught:
        encode(records, tokenizer, "causal_lm", 64)
    assert "`input`, `target`, which this model cannot use" in caught.value.what
    assert "`text` must be text, got a number" in caught.value.what


def test_only_the_completion_of_a_pair_counts_and_it_ends(tokenizer: Any) -> None:
    pair = record(prompt="What is the capital of France?", completion=" Paris.")
    (example,) = encode([pair], tokenizer, "causal_lm", 64).examples
    assert tokenizer.decode(example.input_ids) == "What is the capital of France? Paris.</s>"
    assert counted(tokenizer, example) == " Paris.</s>"


def test_the_prompt_counts_when_it_is_asked_to(tokenizer: Any) -> None:
    pair = record(prompt="Load", completion=" the base")
    (example,) = encode([pair], tokenizer, "causal_lm", 64, count_prompt=True).examples
    assert example.labels == example.input_ids


def test_only_the_last_answer_of_a_conversation_counts(tokenizer: Any) -> None:
    talk = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    messages = [{"role": role, "content": text} for role, text in talk]
    (example,) = encode([record(messages=messages)], tokenizer, "causal_lm", 200).examples
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(example.input_ids) == whole
    assert counted(tokenizer, example) == "four\n"


def test_an_encoder_decoder_gets_its_target_as_labels(tokenizer: Any) -> None:
    (example,) = encode([record(input="Load", target="save")], tokenizer, "seq2seq_lm", 64).examples
    assert tokenizer.decode(example.input_ids) == "Load"
    assert tokenizer.decode(example.labels) == "save</s>"


@pytest.mark.parametrize("label", ["good", 1])
def test_a_class_is_given_by_name_or_number(tokenizer: Any, label: object) -> None:
    wanted = record(text="fine", label=label)
    classes = {"bad": 0, "good": 1}
    encoded = encode([wanted], tokenizer, "sequence_classification", 64, classes=classes)
    assert encoded.examples[0].labels == (1,)


@pytest.mark.parametrize("label", ["ugly", 2, True, 0.5])
def test_an_unknown_class_is_refused_with_the_known_ones(tokenizer: Any, label: object) -> None:
    wanted = record(text="fine", label=label)
    with pytest.raises(InputError, match="has no class") as caught:
        encode([wanted], tokenizer, "sequence_classification", 64, classes={"bad": 0, "good": 1})
    assert caught.value.where == "data.jsonl:3"
    assert "bad (0), good (1)" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({"input": "a", "target": "b"}, "causal_lm"),
        ({"text": "a"}, "seq2seq_lm"),
        ({"text": "a"}, "sequence_classification"),
    ],
)
def test_fields_of_another_task_are_refused(tokenizer: Any, fields: Any, task: Any) -> None:
    with pytest.raises(InputError, match="cannot use") as caught:
        encode([record(**fields)], tokenizer, task, 64, classes={"a": 0})
    assert caught.value.where == "data.jsonl:3"


def test_messages_without_a_chat_template_are_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(build_tokenizer(tmp_path))
    with pytest.raises(InputError, match="chat template"):
        encode([record(messages=[{"role": "user", "content": "a"}])], plain, "causal_lm", 64)


def test_pairs_that_are_cut_off_are_counted_and_empty_ones_left_out(tokenizer: Any) -> None:
    pairs = [record(prompt="a b c d e f g h", completion="i"), record(prompt="a", completion="b")]
    encoded = encode(pairs, tokenizer, "causal_lm", 5)
    assert len(encoded.examples) == 1
    assert encoded.cut == 1


def test_a_batch_is_padded_on_the_right() -> None:
    batch = pad([Example((5, 6, 7), (5, 6, 7)), Example((8,), (8,))], pad_id=2)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, IGNORED, IGNORED]]


def test_batches_hold_every_example_once_like_lengths_together() -> None:
    examples = [Example(tuple(range(n)), tuple(range(n))) for n in (1, 9, 2, 8, 3)]
    made = list(batches(examples, 2, pad_id=0))
    assert [tuple(batch["input_ids"].shape) for _, batch in made] == [(2, 9), (2, 3), (1, 1)]
    assert [places for places, _ in made] == [[1, 3], [4, 2], [0]]
