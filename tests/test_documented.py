"""Strings under attributes, in the JSON Schema of their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter

from pipeline.documented import Documented
from pipeline.steps import step_settings


@dataclass
class Inner:
    """A plain dataclass."""

    size: int
    """In bytes."""


class Outer(BaseModel):
    """A record."""

    name: str
    """Of the thing,
    in two lines."""
    bare: int = 1
    inner: Inner | None = None
    """What is in it."""


@step_settings
class Options:
    from_: str = "here"
    """Where it begins."""


def properties(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = TypeAdapter(kind).json_schema(schema_generator=Documented)
    return schema["properties"], schema.get("$defs", {})


def test_the_string_under_an_attribute_describes_it() -> None:
    found, inner = properties(Outer)

    assert found["name"]["description"] == "Of the thing,\nin two lines."
    assert found["inner"]["description"] == "What is in it."
    assert inner["Inner"]["properties"]["size"]["description"] == "In bytes."


def test_an_attribute_without_one_has_no_description() -> None:
    assert "description" not in properties(Outer)[0]["bare"]


def test_an_option_is_described_under_the_name_that_recipes_give_it() -> None:
    assert properties(Options)[0] == {
        "from": {
            "description": "Where it begins.",
            "default": "here",
            "title": "From",
            "type": "string",
        }
    }
