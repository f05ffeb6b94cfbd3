"""Keeping tokens and passwords out of logs and manifests.

Three things betray a secret: the name it stands under, its own shape, and being the value of an
environment variable with such a name. The words of language models (`pad_token`, `max_new_tokens`,
`tokenizer`) look alike and must survive, and so must hashes.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

HIDDEN = "[hidden]"
"""Stands where a secret stood."""

SHORTEST_IN_ENVIRONMENT = 8
"""Shorter values of environment variables are left alone: ordinary words contain them."""

_NAMES = {
    "password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials",
    "apikey", "authorization",
}  # fmt: skip
_NAMES_OF_TWO = {
    ("api", "key"), ("access", "key"), ("secret", "key"), ("private", "key"), ("account", "key"),
}  # fmt: skip
_TOKEN_OF = {
    "access", "api", "auth", "bearer", "gh", "git", "github", "gitlab", "hf", "hub", "huggingface",
    "id", "oauth", "read", "refresh", "security", "session", "user", "wandb", "write",
}  # fmt: skip
"""What a secret token is called after. Any other `..._token` is the tokenizer's, unless it looks
random."""

_SHAPES = re.compile(
    r"""
      (?<![A-Za-z0-9_]) hf_[A-Za-z0-9]{16,}                       # Hugging Face
    | (?<![A-Za-z0-9_]) api_org_[A-Za-z0-9]{16,}
    | (?<![A-Za-z0-9]) sk-(?=[\w-]{0,60}\d)[\w-]{16,}             # OpenAI, Anthropic and others
    | (?<![A-Za-z0-9]) gh[pousr]_[A-Za-z0-9]{16,}                 # GitHub
    | (?<![A-Za-z0-9]) github_pat_\w{16,}
    | (?<![A-Za-z0-9]) glpat-[\w-]{16,}                           # GitLab
    | (?<![A-Za-z0-9]) xox[abprs]-[\w-]{10,}                      # Slack
    | (?<![A-Za-z0-9]) (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])   # AWS
    | (?<![A-Za-z0-9]) AIza[\w-]{35}                              # Google
    | (?<![\w-]) eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*               # JSON web token
    | -----BEGIN[ A-Z]*PRIVATE\ KEY-----.*?(?:-----END[ A-Z]*PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_URL = re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)|(?<=://)[^\s/@:'\"]{16,}(?=@)")
_SIGNED_URL = re.compile(
    r"(?i)(?<=[?&])((?:x-amz-|x-goog-)?(?:signature|credential|security-token)|sig)=[^&\s'\"]+"
)
_HEADER = re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)(?:[a-z]+\s+)?[^\s'\",;]+")
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{12,}")
_ASSIGNED = re.compile(
    r"""
    (?<![\w.-]) (?=[\w.-]{0,200}?(?i:token|pass|pwd|secret|cred|key|auth))
    (?P<key> [.-]{0,2} [A-Za-z_][\w.-]{0,200} ) (?P<sign> ['"]? \s{0,20} [=:] \s{0,20} )
    (?: (?P<quote> ['"] ) (?P<quoted> (?: (?!(?P=quote)) [^\\\n] | \\. ){0,4000} ) (?P=quote)
      | (?P<bare> [^\s,;&'"(){}\[\]<>]+ ) )
    """,
    re.VERBOSE,
)
# Every repetition above that could be tried from many places is bounded: a log line of a megabyte,
# whatever is in it, must not hold up a run.


def redact_text(text: str) -> str:
    """The text with every secret in it replaced by `[hidden]`."""
    return _redact_text(text, _environment())


def _redact_text(text: str, environment: Sequence[str]) -> str:
    for value in environment:
        text = text.replace(value, HIDDEN)
    text = _SHAPES.sub(HIDDEN, text)
    text = _IN_URL.sub(HIDDEN, text)
    text = _SIGNED_URL.sub(rf"\1={HIDDEN}", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _ASSIGNED.sub(_redact_assigned, text)


def redact(data: Any) -> Any:
    """A copy of plain data (mappings, lists, strings, numbers) without secrets.

    Under a name such as `password` or `hf_token` the value goes, whatever it is; everywhere else
    strings go through `redact_text`.
    """
    return _redact(data, _environment())


def _redact(data: Any, environment: Sequence[str]) -> Any:
    if isinstance(data, str):
        return _redact_text(data, environment)
    if isinstance(data, Mapping):
        return {
            _redact(key, environment): (
                _hide(value) if _betrays(str(key), value) else _redact(value, environment)
            )
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        clean = [_redact(value, environment) for value in data]
        return tuple(clean) if type(data) is tuple else clean
    return data


class RedactingFormatter(logging.Formatter):
    """Formats log records without secrets, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))


@lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    words = _words(name)
    return bool(words) and (
        words[-1] in _NAMES
        or tuple(words[-2:]) in _NAMES_OF_TWO
        or words == ["token"]
        or (words[-1] == "token" and words[-2] in _TOKEN_OF)
    )


def _words(name: str) -> list[str]:
    """The words of the last part of a dotted name: `params.hfToken` -> hf, token."""
    last = name.rpartition(".")[2]
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", last)]


def _betrays(name: str, value: Any) -> bool:
    """Whether the value under this name is a secret. Flags and counts of tokens are not."""
    is_token = _words(name)[-1:] == ["token"]
    if value is None or isinstance(value, bool) or (is_token and isinstance(value, int | float)):
        return False
    return _is_secret_name(name) or (is_token and isinstance(value, str) and _looks_random(value))


def _looks_random(value: str) -> bool:
    return bool(re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[\w.+/=-]{16,}", value))


def _hide(value: Any) -> Any:
    """`[hidden]`; an empty value stays, and an interpolation, which only says where to look."""
    if value == "" or (isinstance(value, str) and re.fullmatch(r"\$\{[^}]*\}", value)):
        return value
    return HIDDEN


def _redact_assigned(match: re.Match[str]) -> str:
    value = match["bare"] if match["quoted"] is None else match["quoted"]
    words = _words(match["key"])
    if not value or HIDDEN in value or not words:
        return match[0]
    # Prose says "unexpected token: comma"; there, only what looks like a secret goes.
    prose = words == ["token"] and match["sign"].strip() == ":"
    if (
        not (_looks_random(value) if prose else _betrays(match["key"], value))
        or _hide(value) == value
    ):
        return match[0]
    quote = match["quote"] or ""
    return f"{match['key']}{match['sign']}{quote}{HIDDEN}{quote}"


def _environment() -> list[str]:
    """Values of the environment variables whose names say that they are secret, longest first."""
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_IN_ENVIRONMENT
        and _is_secret_name(name)
        and not os.path.exists(value)
    }
    return sorted(values, key=len, reverse=True)
