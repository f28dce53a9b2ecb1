"""Types of the quantities that an experiment is written with, for the models of files and of objects. Pure.

:mod:`abmesh.experiment.quantities` reads and writes them; :mod:`abmesh.experiment.forms` says which form is at hand.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from abmesh.experiment.forms import form_of, in_object
from abmesh.experiment.quantities import (
    DAYS_FORM,
    DURATION,
    DURATION_FORM,
    LARGEST,
    LIMIT_FORM,
    PERCENT,
    PLAIN_WEIGHT_FORM,
    QUOTED_LIMIT_FORM,
    QUOTED_SHARE_FORM,
    SHARE_FORM,
    SIZE,
    SIZE_FORM,
    WEIGHT_FORM,
    WHOLE_DURATION,
    Bytes,
    Percentage,
    exact_duration,
    format_size,
    format_weight,
    parse_duration,
    parse_share,
    parse_size,
    parse_weight,
    percent_of,
    percentage,
    unquoted,
)


def _weight(value: object, info: ValidationInfo[Any]) -> int:
    points = parse_weight(value)
    if in_object(info) and isinstance(value, str):
        raise PydanticCustomError("weight", "not a weight", {"allowed": PLAIN_WEIGHT_FORM})
    if points is None:
        raise PydanticCustomError("weight", "not a weight", {"allowed": WEIGHT_FORM})
    return points


def _duration(value: object, info: ValidationInfo[Any]) -> timedelta:
    if in_object(info) and isinstance(value, str) and DURATION.fullmatch(value) and not WHOLE_DURATION.fullmatch(value):
        raise PydanticCustomError("duration", "decimals beside days", {"allowed": DAYS_FORM})
    duration = value if isinstance(value, timedelta) else parse_duration(value) if isinstance(value, str) else None
    if duration is None:
        raise PydanticCustomError("duration", "not a duration", {"allowed": DURATION_FORM})
    return duration


def _size(value: object) -> Bytes:
    size = value if isinstance(value, Bytes) else parse_size(value) if isinstance(value, str) else None
    if size is None:
        raise PydanticCustomError("size", "not a size from 100kB to 10GB", {"allowed": SIZE_FORM})
    return Bytes(size)


def _share(value: object, info: ValidationInfo[Any]) -> float:
    quoted = in_object(info)
    share = parse_share(unquoted(value) if quoted else value)
    if share is None:
        raise PydanticCustomError("share", "not a share", {"allowed": QUOTED_SHARE_FORM if quoted else SHARE_FORM})
    return share


def _limit(value: object, _: object, info: ValidationInfo[Any]) -> float | timedelta:
    if in_object(info):
        limit = _any_limit(unquoted(value))
        form = QUOTED_LIMIT_FORM
    else:
        limit, form = _any_limit(value), LIMIT_FORM
    if limit is None:
        raise PydanticCustomError("limit", "not a limit", {"allowed": form})
    return limit


def _any_limit(value: object) -> float | timedelta | None:
    if isinstance(value, timedelta | Percentage):
        return value
    if isinstance(value, str):
        share = parse_share(value)
        limit = parse_duration(value) if share is None else Percentage(share)
        if limit is not None:
            return limit
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    return None


def _write_weight(points: int, info: SerializationInfo[Any]) -> Any:
    return float(format_weight(points)) if form_of(info) is None else percent_of(points)


def _write_share(share: float, info: SerializationInfo[Any]) -> Any:
    """As people write it, if a form is written; the number itself otherwise."""
    return share if form_of(info) is None else percentage(share) or _number(share, info)


def _number(value: float, info: SerializationInfo[Any]) -> Any:
    if not in_object(info):
        return int(value) if value.is_integer() else float(value)
    return int(value) if value.is_integer() else f"{Decimal(repr(float(value))):f}"


def _write_limit(limit: float | timedelta, info: SerializationInfo[Any]) -> Any:
    if isinstance(limit, timedelta):
        return exact_duration(limit)
    if form_of(info) is None:
        return float(limit)
    return (isinstance(limit, Percentage) and percentage(limit)) or _number(limit, info)


_DURATION_SCHEMA = {"type": "string", "pattern": f"^{DURATION.pattern}$", "description": DURATION_FORM}
_SHARE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "pattern": f"^{PERCENT.pattern}$"},
    ],
    "description": SHARE_FORM,
}

Weight = Annotated[
    int,
    BeforeValidator(_weight),
    PlainSerializer(_write_weight),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100, "description": WEIGHT_FORM}),
]
"""Written in percent, kept in basis points (0 to 10,000)."""

Duration = Annotated[
    timedelta, BeforeValidator(_duration), PlainSerializer(exact_duration), WithJsonSchema(_DURATION_SCHEMA)
]

Size = Annotated[
    Bytes,
    PlainValidator(_size),
    PlainSerializer(format_size),
    WithJsonSchema({"type": "string", "pattern": f"^{SIZE.pattern}$", "description": SIZE_FORM}),
]
"""Written with a unit, kept in bytes."""

Share = Annotated[
    float, BeforeValidator(_share), PlainSerializer(_write_share, when_used="always"), WithJsonSchema(_SHARE_SCHEMA)
]
"""Written as a percentage or a fraction, kept as a fraction from 0 to 1."""

Limit = Annotated[
    float | timedelta,
    WrapValidator(_limit),  # pydantic's own would make a plain float of a percentage
    PlainSerializer(_write_limit),
    WithJsonSchema(
        {
            "anyOf": [
                _DURATION_SCHEMA,
                _SHARE_SCHEMA["anyOf"][1],
                {"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
            ]
        }
    ),
]
"""A share (:class:`Percentage`), a number (float) or a duration (timedelta), depending on the metric's unit."""
