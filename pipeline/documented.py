"""The strings under the attributes of records and settings, as descriptions in their JSON Schema.

pydantic can take them up itself, but does it as each class is made, by reading the source of all of them:
a twentieth of a second in every start, for words that only a schema and the reference of a step need.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema


class Documented(GenerateJsonSchema):
    """The generator of such schemas: `TypeAdapter(settings).json_schema(schema_generator=Documented)`."""

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        return _described(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> dict[str, Any]:
        return _described(super().dataclass_schema(schema), schema["cls"])


def _described(schema: dict[str, Any], cls: type) -> dict[str, Any]:
    properties = schema.get("properties", {})
    fields = getattr(cls, "__pydantic_fields__", {})
    for attribute, text in _docstrings(cls).items():
        name = (attribute in fields and fields[attribute].alias) or attribute
        if name in properties:
            properties[name] = {"description": text, **properties[name]}
    return schema


def _docstrings(cls: type) -> dict[str, str]:
    """Of the attributes that the class itself has."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        attribute.target.id: inspect.cleandoc(under.value.value)
        for attribute, under in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(attribute, ast.AnnAssign)
        and isinstance(attribute.target, ast.Name)
        and isinstance(under, ast.Expr)
        and isinstance(under.value, ast.Constant)
        and isinstance(under.value.value, str)
    }
