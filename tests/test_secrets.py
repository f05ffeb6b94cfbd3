"""Secrets are taken out; the vocabulary of language models stays."""

from __future__ import annotations

import logging
import secrets as randomness
import string
import time
from collections.abc import Callable

import pytest

from pipeline.secrets import HIDDEN, RedactingFormatter, redact, redact_text

ALPHABET = string.ascii_letters + string.digits


def made_up(prefix: str = "", length: int = 34) -> str:
    """A secret that no scanner of this repository will take for a real one: new at every call."""
    return prefix + "a1" + "".join(randomness.choice(ALPHABET) for _ in range(length - 2))


SHAPES: dict[str, Callable[[], str]] = {
    "hugging face": lambda: made_up("hf_"),
    "openai": lambda: made_up("sk-"),
    "anthropic": lambda: made_up("sk-ant-api03-"),
    "github": lambda: made_up("ghp_"),
    "github fine-grained": lambda: made_up("github_pat_"),
    "gitlab": lambda: made_up("glpat-"),
    "slack": lambda: made_up("xoxb-"),
    "aws": lambda: "AKIA" + "".join(randomness.choice(string.ascii_uppercase) for _ in range(16)),
    "google": lambda: "AIza" + made_up(length=35),
    "jwt": lambda: f"eyJ{made_up()}.eyJ{made_up()}.{made_up()}",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_is_known_by_its_shape_anywhere_in_a_text(shape: str) -> None:
    secret = SHAPES[shape]()

    assert redact_text(f"could not log in with {secret}, giving up") == (
        f"could not log in with {HIDDEN}, giving up"
    )
    assert redact({"notes": [("deep", secret)]}) == {"notes": [("deep", HIDDEN)]}


@pytest.mark.parametrize(
    "text",
    [
        "https://{user}:{secret}@host/path?x=1",
        "https://{secret}@github.com/o/r.git",
        "https://host/f?X-Amz-Credential={secret}&X-Amz-Signature={secret}",
        "Authorization: Bearer {secret}",
        "{{'authorization': 'Basic {secret}'}}",
        "curl -H 'x: bearer {secret}'",
        "params.password={secret}",
        "+params.api_key='{secret}'",
        "HF_TOKEN={secret} mergeline run",
        "tool --api-key={secret} --verbose",
        '{{"client_secret": "{secret}"}}',
        "wandb: token = {secret}",
        "-----BEGIN RSA PRIVATE KEY-----\n{secret}\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_is_known_by_its_surroundings(text: str) -> None:
    secret = made_up()

    cleaned = redact_text(text.format(secret=secret, user="someone"))

    assert secret not in cleaned
    assert HIDDEN in cleaned


@pytest.mark.parametrize(
    "name",
    ["token", "HF_TOKEN", "hub_token", "use_auth_token", "accessToken", "password", "api_key",
     "apiKey", "AWS_SECRET_ACCESS_KEY", "client_secret", "params.db_password", "my-api-key"],
)  # fmt: skip
def test_a_value_under_a_secret_name_goes_whatever_it_is(name: str) -> None:
    assert redact({"a": [{name: "hunter2"}]}) == {"a": [{name: HIDDEN}]}
    assert redact({name: {"nested": "hunter2"}}) == {name: HIDDEN}


@pytest.mark.parametrize(
    "data",
    [
        {"tokenizer": "Qwen/Qwen2.5-0.5B-Instruct", "tokenizer_class": "PreTrainedTokenizerFast"},
        {"max_new_tokens": 64, "tokens": 123456, "tokens_per_second": 12.5},
        {"task": "token_classification", "pad_token": "<|endoftext|>", "eos_token_id": 151643},
        {"bos_token": "<s>", "image_token": "<image>", "additional_special_tokens": ["<a>", "<b>"]},
        {"token": None, "use_auth_token": True, "api_key": ""},
        {"password": "${oc.env:DB_PASSWORD}"},
        {"sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        {"keys": ["model.layers.0.self_attn.q_proj.weight"], "key": "lm_head", "monkey": "banana"},
        {"weights": {"a": 0.5}, "path": "/home/someone/tokens/adapter", "count": 3, "flag": False},
        {"trainable_token_indices": {"embed_tokens": [1, 2]}, "embed_tokens": "saved"},
    ],
)
def test_the_words_of_language_models_survive(data: object) -> None:
    assert redact(data) == data


@pytest.mark.parametrize(
    "text",
    [
        "expected token: 'comma' at line 3",
        "pad_token=<pad> eos_token=</s> unk_token: [UNK]",
        "setting `pad_token_id` to `eos_token_id`:2 for open-end generation",
        "max_new_tokens=128, tokenizer=Qwen/Qwen2.5, token_classification: 3 labels",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "hf_quantizer and hf_device_map are set; task-specific risk-1-based-scores",
        "see https://huggingface.co/docs/peft@main and mailto:someone@example.org",
        "git@github.com:owner/repo.git at 7f369a2",
        "2026-11-22 07:21:02,938 INFO transformers: loading file tokenizer.json",
    ],
)
def test_ordinary_log_lines_survive(text: str) -> None:
    assert redact_text(text) == text


def test_values_of_secret_environment_variables_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_PASSWORD", "correct horse battery")
    monkeypatch.setenv("SHORT_PASSWORD", "model")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-and-longer")

    text = "model: correct horse battery, false-and-longer"

    assert redact_text(text) == f"model: {HIDDEN}, false-and-longer"


@pytest.mark.parametrize("piece", ["a.b-", "token='\\'", "sk-a", "eyJaaaaaaaa-", "key ", "x://a:"])
def test_a_long_line_takes_no_longer_than_its_length(piece: str) -> None:
    started = time.process_time()

    redact_text(piece * (200_000 // len(piece)))

    assert time.process_time() - started < 2  # 0.1 s; when it was not linear, minutes


def test_redacting_twice_changes_nothing_more() -> None:
    once = redact_text(f"password={made_up()} https://a:{made_up()}@h token={made_up()}")

    assert redact_text(once) == once


def test_tracebacks_in_a_log_are_redacted() -> None:
    secret = made_up("hf_")
    try:
        raise ValueError(f"401 for {secret}")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "failed with %s", (secret,), (type(error), error, None)
        )

    line = RedactingFormatter().format(record)

    assert secret not in line
    assert line.count(HIDDEN) == 2
