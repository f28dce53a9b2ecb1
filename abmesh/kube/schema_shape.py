"""JSON Schema as pydantic writes it, made into the structural schema that a CustomResourceDefinition takes. Pure.

An API server knows no references, no alternatives of types and no null, compiles patterns by RE2, and reckons the cost
of rules from bounds, so that every text, list and map needs one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from abmesh.experiment.fields import LONGEST
from abmesh.experiment.quantities import (
    DURATION,
    QUOTED_LIMIT_FORM,
    QUOTED_SHARE_FORM,
    SHARE_FORM,
    WHOLE_DURATION,
    format_duration,
    percentage,
)
from abmesh.kube import wording

Schema = dict[str, Any]

LONGEST_QUANTITY: Final = 40
"""Most characters of a duration, a share or a limit."""

_MOST_REPEATS: Final = 1000
"""RE2 refuses a pattern that repeats more often; the text's greatest length does the same."""

_REPEATS: Final = re.compile(r"\{([01]),([0-9]+)\}")
_SIGNED: Final = r"-?[0-9]{1,13}(?:\.[0-9]{1,20})?"
_FRACTION: Final = r"0(?:\.[0-9]{1,20})?|1(?:\.0{1,20})?"

_KEPT: Final = (
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "format",
)


class _AsWritten(GenerateJsonSchema):
    """Writes a default duration as people do; pydantic itself writes an hour as ``PT1H``."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, with its descriptions and without rules between fields."""
    written = model.model_json_schema(by_alias=True, schema_generator=_AsWritten)
    return _shaped(written, written.get("$defs", {}), in_list=False)


def _shaped(node: Mapping[str, Any], parts: Mapping[str, Any], *, in_list: bool) -> Schema:
    """One value's schema.

    Args:
        node: as pydantic wrote it.
        parts: the definitions that it may refer to.
        in_list: whether it is inside a list: the API server would fill defaults in there, and `kubectl apply`, which
            sends lists whole, would then find a difference for ever.
    """
    node = _resolved(node, parts)
    shaped: Schema = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        shaped["enum"] = [node["const"]]
    if "anyOf" in node:
        shaped |= _quantity(node["anyOf"])
    elif {type(value) for value in shaped.get("enum", ())} == {str, bool}:
        shaped |= {"type": "string", "enum": [str(value).lower() for value in shaped["enum"]]}
    _bound(shaped)
    if "properties" in node:
        shaped["type"] = "object"
        shaped["properties"] = {
            name: _shaped(value, parts, in_list=in_list)
            for name, value in node["properties"].items()
            if not value.get("deprecated")
        }
        if node.get("required"):
            shaped["required"] = list(node["required"])
    elif shaped.get("type") == "object":
        values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        if isinstance(values[0], Mapping):
            shaped["additionalProperties"] = _shaped(values[0], parts, in_list=in_list)
        else:
            shaped["x-kubernetes-preserve-unknown-fields"] = True
    elif shaped.get("type") == "array":
        shaped["items"] = _shaped(node["items"], parts, in_list=True)
    description = node.get("description", "")
    if shaped.get("x-kubernetes-int-or-string") and "Write" not in description:
        description += f" Write {QUOTED_LIMIT_FORM}."
    if description:
        shaped["description"] = plain_words(description)
    default = _default(node.get("default"), shaped)
    if default is not None and not in_list:
        shaped["default"] = default
    return shaped


def _resolved(node: Mapping[str, Any], parts: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without references and null; what is said where a part is used goes before what the part says."""
    while True:
        if "$ref" in node:
            part = parts[node["$ref"].rpartition("/")[2]]
        elif "anyOf" in node and (some := [one for one in node["anyOf"] if one.get("type") != "null"]) != node["anyOf"]:
            part = some[0] if len(some) == 1 else {"anyOf": some}
        else:
            return node
        said = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        form = part.get("description")
        if "$ref" not in node and form and "description" in said:
            said["description"] += f" Write {form}."
        node = {**part, **said}


def _quantity(options: list[Mapping[str, Any]]) -> Schema:
    """A share or a limit: a whole number, or a text for everything else, since there is no type for both.

    Raises:
        ValueError: the alternatives are others, for which there is no structural schema.
    """
    numbers = [one for one in options if one.get("type") == "number"]
    patterns = [one["pattern"].removeprefix("^").removesuffix("$") for one in options if one.get("type") == "string"]
    if len(numbers) != 1 or len(patterns) != len(options) - 1:
        raise ValueError(f"no structural schema for {json.dumps(options)}")
    share = numbers[0].get("maximum") == 1
    either = "|".join([*patterns, _FRACTION if share else _SIGNED])
    return {
        "x-kubernetes-int-or-string": True,
        "pattern": f"^(?:{either})$",
        "maxLength": LONGEST_QUANTITY,
        **({"minimum": 0, "maximum": 1} if share else {}),
    }


def _bound(shaped: Schema) -> None:
    """Give a text the greatest length that its pattern allows, and a pattern no more repeats than RE2 counts."""
    pattern = shaped.get("pattern")
    if shaped.get("type") != "string" or pattern is None:
        return
    if pattern == f"^{DURATION.pattern}$":
        pattern = f"^(?:{WHOLE_DURATION.pattern})$"
        shaped |= {"format": "duration", "maxLength": LONGEST_QUANTITY}
    elif pattern in LONGEST:
        shaped.setdefault("maxLength", LONGEST[pattern])
    shaped["pattern"] = _REPEATS.sub(
        lambda found: found.group() if int(found[2]) <= _MOST_REPEATS else "+" if found[1] == "1" else "*", pattern
    )


def _default(default: Any, shaped: Schema) -> Any:
    """A default as the object has it; None for none, and for what only repeats that something is left out."""
    if default is None or isinstance(default, dict | list) or default == "":
        return None
    if shaped.get("x-kubernetes-int-or-string"):
        return percentage(default)
    return str(default).lower() if shaped.get("type") == "string" and isinstance(default, bool) else default


def plain_words(text: str) -> str:
    """A description as `kubectl explain` shows it: without marks of code, fields in camelCase."""
    return wording.words(text.replace("`", "").replace(SHARE_FORM, QUOTED_SHARE_FORM)).strip()
