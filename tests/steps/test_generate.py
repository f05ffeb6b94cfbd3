from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError, Refused
from tests.fixtures.models import build_base, build_tokenizer
from tests.fixtures.session import Session

PROMPTS = ["What is the capital of France?", "merge"]


def read(session: Session) -> list[dict[str, str]]:
    text = (session.run.dir / "generate.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def greedy(base: Path, prompt: str, tokens: int) -> str:
    """The likeliest token, again and again, without transformers' generate."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < start + tokens and ids[-1] != tokenizer.eos_token_id:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_only_the_new_text_is_written_and_it_is_the_likeliest(
    session: Session, base_model: Callable[..., Path]
) -> None:
    base = base_model("llama", dtype="float32")
    session.do("load_base", model=str(base))
    record = session.do("generate", prompts=PROMPTS, max_new_tokens=8)
    assert read(session) == [{"prompt": p, "text": greedy(base, p, 8)} for p in PROMPTS]
    assert len(record.notes) == 2
    assert [Path(out.path).name for out in record.outputs] == ["generate.jsonl"]


def test_sampling_settings_of_the_model_neither_change_greedy_nor_warn(
    session: Session, tmp_path: Path
) -> None:
    base = build_base(tmp_path / "base", "llama", dtype="float32")
    config = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 3,
        "min_p": 0.2,
        "repetition_penalty": 9.0,
    }
    (base / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 1}))
    session.do("load_base", model=str(base))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session.do("generate", prompts=PROMPTS, max_new_tokens=8)
    assert read(session) == [{"prompt": p, "text": greedy(base, p, 8)} for p in PROMPTS]
    assert not [w for w in caught if "generation" in str(w.message).lower()]
    assert session.run.live().model.generation_config.temperature == 0.7


def test_a_seed_makes_sampling_repeatable(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    texts = []
    for _ in range(2):
        session.do(
            "generate", prompts=["merge"], do_sample=True, temperature=1.5, max_new_tokens=12
        )
        texts.append(read(session))
    assert texts[0] == texts[1]
    session.do("generate", prompts=["merge"], max_new_tokens=12)
    assert read(session) != texts[0]


def test_the_chat_template_is_used_where_there_is_one(session: Session, tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", "llama", dtype="float32")
    build_tokenizer(base, chat=True)
    session.do("load_base", model=str(base))
    session.do("generate", prompts=["merge"], system="Be brief.", max_new_tokens=6)
    prompt = "<|system|>Be brief.\n<|user|>merge\n<|assistant|>"
    assert read(session)[0]["text"] == greedy(base, prompt, 6)
    session.do("generate", prompts=["merge"], chat="never", max_new_tokens=6)
    assert read(session)[0]["text"] == greedy(base, "merge", 6)


def test_a_chat_template_that_is_not_there_is_an_error_when_it_must_be_used(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(InputError, match="no chat template"):
        session.do("generate", prompts=["merge"], chat="always")
    assert session.do("generate", prompts=["a"], system="Be brief.", max_new_tokens=1).warnings


def test_an_encoder_decoder_writes_too(session: Session, base_model: Callable[..., Path]) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    base = base_model("t5", dtype="float32")
    session.do("load_base", model=str(base), task="seq2seq_lm")
    session.do("generate", prompts=["merge"], max_new_tokens=5)
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    ids = model.generate(**tokenizer("merge", return_tensors="pt"), max_new_tokens=5)[0]
    assert read(session)[0]["text"] == tokenizer.decode(ids, skip_special_tokens=True)


def test_an_empty_prompt_lets_the_model_begin(
    session: Session, base_model: Callable[..., Path]
) -> None:
    base = base_model("llama", dtype="float32")
    session.do("load_base", model=str(base))
    session.do("generate", prompts=[""], max_new_tokens=5)
    assert read(session)[0]["text"] == greedy(base, "<s>", 5)


def test_a_classifier_is_refused_before_the_run(
    session: Session, base_model: Callable[..., Path]
) -> None:
    session.do("load_base", model=str(base_model("bert")), task="feature_extraction")
    with pytest.raises(Refused, match="does not write text"):
        session.describe("generate", prompts=["a"])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"system": "x", "chat": "never"}, "system"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    session: Session, base_model: Callable[..., Path], settings: dict[str, object], key: str
) -> None:
    session.do("load_base", model=str(base_model("llama")))
    with pytest.raises(Refused) as caught:
        session.describe("generate", prompts=["a"], **settings)
    assert caught.value.key == key
