"""What is measured in models' answers and users' feedback: tokens, refusals, cache hits, events. Pure.

:mod:`abmesh.experiment.model` puts these into an experiment; :mod:`abmesh.mesh` renders them for Envoy, which measures
all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from abmesh.experiment.fields import EventName, FieldPath, HeaderValue, JsonKey, JsonText
from abmesh.experiment.metrics import CONTINUATION, VALUE_SCALE, taken
from abmesh.experiment.validation import Frozen, refuse, response_header_name

LARGEST_VALUE: Final = 1e6
"""Largest value of an event. Envoy adds thousandths in 64 bits, enough for 18 billion such events."""


class Signal(Frozen):
    """A signal in an answer: a header of the upstream, or a field of its JSON or of an event in its stream.

    Attributes:
        header: a response header. Without ``value``, any value but 0 counts.
        field: a JSON key, anywhere in the answer. Without ``value``, any string but an empty one counts.
        value: the header's exact value, in any case, or the field's exact string.
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
            raise refuse("needs exactly one place", found=found, allowed="header or field")
        if self.header is not None and self.value is not None and self.value != self.value.strip():
            raise refuse(
                "a header's value cannot begin or end with a space", "value", allowed=f"{self.value.strip()!r}"
            )
        return self


class HeaderSignal(Frozen):
    """A response header of the upstream.

    Attributes:
        header: its name.
        value: its exact value, in any case. Without it, any value but 0 counts.
    """

    header: str
    value: HeaderValue | None = None

    @field_validator("header", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return response_header_name(value)


class Answers(Frozen):
    """Where answers report what is measured.

    Attributes:
        input_tokens: path of JSON keys to the number of input tokens, each key directly inside the one before.
        output_tokens: path of JSON keys to the number of output tokens.
        refusals: signals that an answer is a refusal; any of them is enough.
        cached: signals that an answer came from a cache; any of them is enough.
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
            message = "input and output tokens cannot be the same field"
            raise refuse(
                message, "output_tokens", found=self.output_tokens, allowed="a different path from input_tokens"
            )
        return self


class EventValueBounds(Frozen):
    """Range of an event's value; an event with a value outside it is refused.

    Attributes:
        min: the smallest allowed value.
        max: the largest allowed value.
    """

    min: Annotated[float, Field(ge=0, le=LARGEST_VALUE, allow_inf_nan=False, strict=True)] = 0.0
    max: Annotated[
        float, Field(ge=1 / VALUE_SCALE, le=LARGEST_VALUE, allow_inf_nan=False, strict=True)
    ]  # values are counted in thousandths

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min >= self.max:
            allowed = f"less than {self.max:g}"
            raise refuse("min must be less than max", "min", found=f"{self.min:g}", allowed=allowed)
        return self


class Event(Frozen):
    """A kind of feedback event.

    Attributes:
        name: the last part of the path that it is sent to.
        value: range of the value that it may carry, with up to three decimals; leave it out if it carries none.
    """

    name: EventName
    value: EventValueBounds | None = None

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        metric = taken(value)
        if metric is not None:
            message = f"its rate would be called {metric}, which is a built-in metric"
            raise refuse(message, found=value, allowed=f"another name, such as user_{value}")
        return value

    @model_validator(mode="after")
    def _built_in(self) -> Self:
        if self.name == CONTINUATION and self.value is not None:
            message = f"{CONTINUATION} is counted automatically and carries no value"
            raise refuse(message, "value", allowed=f"only the name, {CONTINUATION}")
        return self


def _short(value: object) -> object:
    """Accept the name alone for an event without a value."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping | Event):
        raise refuse("not an event", allowed="a name such as click, or {name: purchase, value: {max: 500}}")
    return value


ShortEvent = Annotated[Event, BeforeValidator(_short, json_schema_input_type=EventName | Event)]
"""An event as the document lists it."""
