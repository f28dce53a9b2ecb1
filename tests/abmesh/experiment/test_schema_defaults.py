"""Every default in the JSON Schema is one that the schema allows and that our own parser takes as the default."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from abmesh.experiment.codec import json_schema
from abmesh.experiment.model import Document

SCHEMA = json_schema()
PARTS: Mapping[str, Any] = {"Document": SCHEMA, **SCHEMA["$defs"]}
TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
    "integer": int,
    "number": (int, float),
}
SAYS_NOTHING = {"default", "deprecated", "description", "title", "$defs", "$schema"}


def defaults() -> Iterator[tuple[str, str, Any]]:
    for name, part in PARTS.items():
        for field, described in part.get("properties", {}).items():
            if "default" in described:
                yield name, field, described["default"]


def breaks(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """The keywords of a schema that a value breaks: those that our schema uses; another one is an error."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    for keyword, wanted in schema.items():
        match keyword:
            case "type":
                kind = TYPES[wanted]
                fits = isinstance(value, kind) and (wanted not in ("integer", "number") or number)
            case "$ref":
                fits = not list(breaks(value, SCHEMA["$defs"][wanted.rpartition("/")[2]]))
            case "anyOf" | "oneOf":
                fits = any(not list(breaks(value, option)) for option in wanted)
            case "enum":
                fits = value in wanted
            case "const":
                fits = value == wanted
            case "pattern":
                fits = not isinstance(value, str) or re.search(wanted, value) is not None
            case "minLength" | "minItems":
                fits = not isinstance(value, str | list) or len(value) >= wanted
            case "maxLength" | "maxItems":
                fits = not isinstance(value, str | list) or len(value) <= wanted
            case "maxProperties":
                fits = not isinstance(value, dict) or len(value) <= wanted
            case "minimum":
                fits = not number or value >= wanted
            case "maximum":
                fits = not number or value <= wanted
            case "exclusiveMinimum":
                fits = not number or value > wanted
            case "exclusiveMaximum":
                fits = not number or value < wanted
            case "items":
                fits = not isinstance(value, list) or not any(list(breaks(item, wanted)) for item in value)
            case "required":
                fits = not isinstance(value, dict) or value.keys() >= set(wanted)
            case "properties":
                inside = value if isinstance(value, dict) else {}
                fits = not any(list(breaks(item, wanted[name])) for name, item in inside.items() if name in wanted)
            case "patternProperties":
                inside = value if isinstance(value, dict) else {}
                fits = not any(
                    list(breaks(item, part))
                    for form, part in wanted.items()
                    for name, item in inside.items()
                    if re.search(form, name)
                )
            case "additionalProperties":
                forms = schema.get("patternProperties", {})
                others = value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else set()
                others = {name for name in others if not any(re.search(form, name) for form in forms)}
                fits = not others or (wanted is not False and not any(list(breaks(value[k], wanted)) for k in others))
            case "propertyNames":
                fits = not isinstance(value, dict) or not any(list(breaks(name, wanted)) for name in value)
            case _:
                assert keyword in SAYS_NOTHING, f"this test does not know {keyword}"
                fits = True
        if not fits:
            yield keyword


def models(start: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and those that its fields are made of."""
    yield start
    for field in start.model_fields.values():
        found = [field.annotation]
        while found:
            annotation = found.pop()
            found += get_args(annotation)
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from models(annotation)


@pytest.mark.parametrize(("part", "field", "default"), list(defaults()))
def test_every_default_is_written_as_the_document_writes_it(part: str, field: str, default: Any) -> None:
    described = PARTS[part]["properties"][field]
    assert not list(breaks(default, described)), f"{part}.{field}: its own schema refuses {default!r}"
    model = {model.__name__: model for model in models(Document)}[part]
    known = model.model_fields[model.renamed_fields.get(field, field)]  # type: ignore[attr-defined]
    taken = TypeAdapter(known.rebuild_annotation(), config=None).validate_python(default)
    assert taken == known.get_default(call_default_factory=True)


@pytest.mark.parametrize(("value", "allowed"), [("1h", True), ("PT1H", False), ("1 h", False), (3600, False)])
def test_the_check_above_can_fail(value: object, allowed: bool) -> None:
    described = PARTS["Stage"]["properties"]["min_duration"]
    assert (not list(breaks(value, described))) is allowed
