"""What is read of models' answers and of users' feedback: tokens, refusals, cache hits, events. Pure.

:mod:`abmesh.experiment.model` puts these into an experiment; :mod:`abmesh.mesh` renders them into Envoy, where all of
it is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from abmesh.experiment.fields import EventName, FieldPath, HeaderValue, JsonKey, JsonText
from abmesh.experiment.metrics import CONTINUATION, VALUE_SCALE, taken
from abmesh.experiment.validation import Frozen, refuse, response_header_name

LARGEST_VALUE: Final = 1e6
"""Most that an event may be worth. Envoy adds thousandths in 64 bits: 18 thousand million such events have room."""


class Signal(Frozen):
    """Something in an answer: a header of the upstream's, or a field of its JSON or of an event of its stream.

    Attributes:
        header: a response header. Without ``value`` it need only be there and not be 0.
        field: a key of JSON, wherever it stands in the answer. Without ``value`` it must hold a text that is not empty.
        value: what it must be: the header exactly, in any case; the field as a text.
    """

    header: str | None = None
    field: JsonKey | None = None
    value: JsonText | None = None

    @field_validator("header", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return response_header_name(value)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.field is None):
            found = "neither" if self.header is None else "both"
            raise refuse("exactly one place is needed", found=found, allowed="header or field")
        if self.header is not None and self.value is not None and self.value != self.value.strip():
            raise refuse("a header's value has no space at either end", "value", allowed=f"{self.value.strip()!r}")
        return self


class HeaderSignal(Frozen):
    """A response header of the upstream's; without ``value`` it need only be there and not be 0."""

    header: str
    value: HeaderValue | None = None

    @field_validator("header", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return response_header_name(value)


class Answers(Frozen):
    """What answers say, and where.

    Attributes:
        input_tokens: path of keys to the number of input tokens, each key directly inside the one before.
        output_tokens: path of keys to the number of output tokens.
        refusals: an answer with any of these is a refusal.
        cached: an answer with any of these came from a cache.
    """

    input_tokens: FieldPath = "usage.prompt_tokens"
    output_tokens: FieldPath = "usage.completion_tokens"
    refusals: Annotated[tuple[Signal, ...], Field(max_length=10)] = (
        Signal(field="finish_reason", value="content_filter"),
        Signal(field="refusal"),
    )
    cached: Annotated[tuple[HeaderSignal, ...], Field(max_length=10)] = (
        HeaderSignal(header="age"),
        HeaderSignal(header="x-cache", value="hit"),
    )

    @model_validator(mode="after")
    def _two_numbers(self) -> Self:
        if self.input_tokens == self.output_tokens:
            message = "input and output tokens cannot be the same number"
            raise refuse(message, "output_tokens", found=self.output_tokens, allowed="another path than input_tokens")
        return self


class EventValueBounds(Frozen):
    """What value an event may carry; one that carries another is refused.

    Attributes:
        min: the smallest value.
        max: the largest.
    """

    min: Annotated[float, Field(ge=0, le=LARGEST_VALUE, allow_inf_nan=False, strict=True)] = 0.0
    max: Annotated[
        float, Field(ge=1 / VALUE_SCALE, le=LARGEST_VALUE, allow_inf_nan=False, strict=True)
    ]  # less than a thousandth could never be counted

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min >= self.max:
            allowed = f"less than max, {self.max:g}"
            raise refuse("the smallest value must be below the largest", "min", found=f"{self.min:g}", allowed=allowed)
        return self


class Event(Frozen):
    """A feedback event that is counted.

    Attributes:
        name: the last part of the path that it is sent to.
        value: the values that it may carry, to three decimals; None means that it carries none.
    """

    name: EventName
    value: EventValueBounds | None = None

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        metric = taken(value)
        if metric is not None:
            message = f"{metric} is a metric of its own, not the rate of an event"
            raise refuse(message, found=value, allowed="another name, such as user_" + value)
        return value

    @model_validator(mode="after")
    def _built_in(self) -> Self:
        if self.name == CONTINUATION and self.value is not None:
            message = f"{CONTINUATION} is counted by itself and carries no value"
            raise refuse(message, "value", allowed=f"nothing: only the name, {CONTINUATION}")
        return self


def _short(value: object) -> object:
    """An event that carries no value may be written as its name."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping | Event):
        raise refuse("not an event", allowed="a name such as click, or {name: purchase, value: {max: 500}}")
    return value


ShortEvent = Annotated[Event, BeforeValidator(_short, json_schema_input_type=EventName | Event)]
"""An event as the document lists it."""
