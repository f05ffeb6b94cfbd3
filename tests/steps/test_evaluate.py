from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import InputError, Refused
from pipeline.proof.harness import missing
from tests.fixtures.examples import QUESTIONS, by_hand, lines
from tests.fixtures.session import Session

Write = Callable[[str, str], str]


def test_loss_is_the_mean_over_all_tokens_whatever_the_batches(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    base = base_model("llama", dtype="float32")
    texts = ["Load the base, attach the adapter", "merge", "be sure that it is the one you trained"]
    data = write("data.jsonl", lines(*({"text": text} for text in texts)))
    session.do("load_base", model=str(base))
    found = session.do("evaluate", data=data, batch_size=2).metrics
    expected = [by_hand(base, text) for text in texts]
    total, tokens = sum(e[0] for e in expected), sum(e[1] for e in expected)
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_only_the_completion_is_measured(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    base = base_model("llama", dtype="float32")
    data = write("data.jsonl", lines({"prompt": "What is the capital?", "completion": " Paris."}))
    session.do("load_base", model=str(base))
    found = session.do("evaluate", data=data).metrics
    total, tokens = by_hand(base, " Paris.</s>", prompt="What is the capital?")
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_an_encoder_decoder_is_measured_on_its_target(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    base = base_model("t5", dtype="float32")
    pairs = [
        ("Load the base", "merge"),
        ("a recipe lists the steps", "What is the capital of France?"),
    ]
    data = write("data.jsonl", lines(*({"input": a, "target": b} for a, b in pairs)))
    session.do("load_base", model=str(base), task="seq2seq_lm")
    found = session.do("evaluate", data=data).metrics
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    total, tokens = 0.0, 0
    for source, target in pairs:
        labels = tokenizer(target + "</s>", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            mean = model(**tokenizer(source, return_tensors="pt"), labels=labels).loss.item()
        total, tokens = total + mean * labels.numel(), tokens + labels.numel()
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_a_classifier_is_measured_by_accuracy_too(
    session: Session, write: Write, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tests.fixtures.models import build_base

    base = build_base(tmp_path / "bert", "bert", dtype="float32")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).eval()
    model.save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = ["Load the base", "merge", "Paris", "a spider has eight legs"]
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(t, return_tensors="pt")).logits for t in texts])
    labels = [*logits.argmax(-1).tolist()[:3], int(logits[3].argmin())]
    data = write(
        "d.jsonl", lines(*({"text": t, "label": k} for t, k in zip(texts, labels, strict=True)))
    )
    session.do("load_base", model=str(base), task="sequence_classification")
    found = session.do("evaluate", data=data).metrics
    assert found["accuracy"] == 0.75
    assert found["examples"] == 4
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert found["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_missing_data_file_is_refused_before_the_run(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused, match="no such data file") as caught:
        session.describe("evaluate", data="nowhere.jsonl")
    assert caught.value.key == "data"


def test_data_that_an_earlier_step_will_write_is_not_looked_for(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    session.describe("evaluate", data=str(session.run.dir / "generate.jsonl"))


def test_bad_lines_are_named_together_before_the_run(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    data = write("data.jsonl", '{"text": "a"}\n{"txt": "b"}\n{"text": "c"')
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused, match="2 examples are wrong") as caught:
        session.describe("evaluate", data=data)
    assert f"{data}:2: the example has the fields `txt`" in caught.value.what
    assert f"{data}:3: not JSON" in caught.value.what
    assert caught.value.key == "data"


def test_a_model_of_speech_cannot_be_measured_on_text(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("whisper")), task="speech_seq2seq")
    with pytest.raises(Refused, match="speech_seq2seq"):
        session.describe("evaluate", data=write("a.txt", "words"))


def test_examples_without_a_token_to_predict_are_an_error(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(InputError, match="no token of it can be measured"):
        session.do("evaluate", data=write("a.jsonl", lines({"text": "a"})))


def test_a_long_text_is_measured_in_windows_that_overlap(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    """Against the sum written out: each token after what is before it in the first window that has it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = base_model("llama", dtype="float32")
    text = (
        "Load the base, attach the adapter, merge, and be sure that it is the one you trained. " * 3
    )
    session.do("load_base", model=str(base))
    found = session.do("evaluate", data=write("a.txt", text), window=32, stride=12, batch_size=3)
    model = AutoModelForCausalLM.from_pretrained(base)
    ids = AutoTokenizer.from_pretrained(base)(text)["input_ids"]
    total, context = 0.0, []
    for place in range(1, len(ids)):
        start = max(0, -(-(place + 1 - 32) // 12) * 12)
        context.append(place - start)
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]])).logits[0, -1].double()
        total -= logits.log_softmax(-1)[ids[place]].item()
    assert min(context[31:]) == 32 - 12
    assert len(ids) > 3 * 32
    assert found.metrics["tokens"] == len(ids) - 1
    assert found.metrics["loss"] == pytest.approx(total / (len(ids) - 1), rel=1e-5)
    assert (found.metrics["window"], found.metrics["stride"]) == (32, 12)


def test_a_window_is_the_context_of_the_model_unless_asked(
    session: Session, write: Write, base_model: Callable[..., Path]
) -> None:
    data = write("a.txt", "Load the base, attach the adapter. " * 9)
    session.do("load_base", model=str(base_model("gpt2")))
    assert session.do("evaluate", data=data).metrics["window"] == 64
    assert session.do("evaluate", data=data).metrics["stride"] == 32
    with pytest.raises(InputError, match="know 64 positions, and `window` is 65"):
        session.do("evaluate", data=data, window=65)
    with pytest.raises(InputError, match="leave tokens without any before them"):
        session.do("evaluate", data=data, stride=64)
    with pytest.raises(Refused, match="without anything before them"):
        session.describe("evaluate", data=data, window=16, stride=16)


def adapted(session: Session, base: Path, folder: Path) -> Path:
    """Load a base and attach an adapter to it; returns the adapter."""
    from peft import LoraConfig

    from tests.fixtures.models import build_adapter

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapter = build_adapter(folder, base, config, scale=0.3)
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(adapter))
    return adapter


@pytest.mark.parametrize("merged", [False, True])
def test_the_change_against_the_base_is_told_with_one_model_in_memory_at_a_time(
    session: Session,
    write: Write,
    base_model: Callable[..., Path],
    tmp_path: Path,
    merged: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import LlamaForCausalLM

    base = base_model("llama", dtype="float32")
    data = write("data.jsonl", lines(*({"text": text} for text in ("Load the base", "merge it"))))
    session.do("load_base", model=str(base))
    alone = session.do("evaluate", data=data).metrics
    adapted(session, base, tmp_path / "adapter")
    if merged:
        session.do("merge")
    session.run.release()

    def models() -> list[Any]:
        return [o for o in gc.get_objects() if type(o) is LlamaForCausalLM]

    before = models()  # kept, so that none of their ids is given to another
    others: list[int] = []
    bar = session.run.console.bar

    def watching(label: str, total: float, unit: str = "") -> Any:
        if label == "building the model":
            others.append(len({id(o) for o in models()} - {id(o) for o in before}))
        return bar(label, total, unit)

    monkeypatch.setattr(session.run.console, "bar", watching)
    record = session.do("evaluate", data=data, compare="base")
    found = record.metrics
    assert others == [0, 0]
    assert found["base.loss"] == alone["loss"]
    assert found["loss"] != alone["loss"]
    assert found["change.loss"] == found["loss"] - alone["loss"]
    assert found["change.perplexity"] == found["perplexity"] - alone["perplexity"]
    (note,) = record.notes
    assert note.splitlines()[0].split() == ["base", "this", "change"]
    assert note.splitlines()[1].split()[:2] == ["loss", f"{alone['loss']:.4g}"]
    assert not record.warnings


def test_answers_of_the_base_lie_beside_those_of_the_model(
    session: Session, write: Write, base_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted(session, base_model("llama"), tmp_path / "adapter")
    asked = write("q.jsonl", lines(*QUESTIONS))
    record = session.do("evaluate", data=asked, compare="base")
    assert [output.path for output in record.outputs] == ["evaluate.base.jsonl", "evaluate.jsonl"]
    this, base = (
        (session.run.dir / name).read_text(encoding="utf-8")
        for name in ("evaluate.jsonl", "evaluate.base.jsonl")
    )
    assert this != base


def test_an_adapter_that_makes_no_difference_is_told(
    session: Session, write: Write, base_model: Callable[..., Path], tmp_path: Path
) -> None:
    from peft import LoraConfig

    from tests.fixtures.models import build_adapter

    base = base_model("llama")
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapter = build_adapter(tmp_path / "adapter", base, config, scale=0.0)
    session.do("load_base", model=str(base))
    session.do("attach_adapter", path=str(adapter))
    record = session.do("evaluate", data=write("a.txt", "Load the base"), compare="base")
    assert record.metrics["change.loss"] == 0
    assert any("make no difference" in warning for warning in record.warnings)


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        ({}, "data", "nothing to measure with"),
        ({"data": "a.txt", "compare": "base"}, "compare", "nothing to compare"),
        ({"data": "a.txt", "few_shot": 2}, "few_shot", "changes nothing without tasks"),
        ({"data": "a.txt", "include_path": "."}, "include_path", "changes nothing without tasks"),
        ({"lm_eval": ["legs"], "include_path": "nowhere"}, "include_path", "no folder nowhere"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    session: Session,
    base_model: Callable[..., Path],
    settings: dict[str, Any],
    key: str,
    what: str,
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused, match=what) as caught:
        session.describe("evaluate", **settings)
    assert caught.value.key == key


@pytest.mark.skipif(not missing(), reason="the extra lm_eval is installed")
def test_without_the_harness_its_tasks_are_refused_with_what_to_install(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused, match="is not installed") as caught:
        session.describe("evaluate", lm_eval=["arc_easy"])
    assert caught.value.fix == "pip install 'mergeline[lm_eval]'"
