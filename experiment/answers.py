"""What is read of models' answers and of users' feedback: tokens, refusals, cache hits, events. Pure.

:mod:`experiment.model` puts these into an experiment; :mod:`mesh` renders them into Envoy, where all of it is measured.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from experiment.metrics import CONTINUATION, VALUE_SCALE
from experiment.parts import Frozen, header_name, refuse
from experiment.quantities import LARGEST
from experiment.texts import EventName, FieldPath, HeaderValue, JsonKey, JsonText


class Signal(Frozen):
    """Something in an answer: a header of the upstream's, or a field of its JSON or of an event of its stream.

    Attributes:
        header: a response header. Without ``value`` it need only be there.
        field: a key of JSON, wherever it stands in the answer. Without ``value`` it must hold a text that is not empty.
        value: what it must be: the header exactly, in any case; the field as a text.
    """

    header: str | None = None
    field: JsonKey | None = None
    value: JsonText | None = None

    @field_validator("header", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return header_name(value)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.field is None):
            found = "neither" if self.header is None else "both"
            raise refuse("exactly one place is needed", found=found, allowed="header or field")
        return self


class HeaderSignal(Frozen):
    """A response header of the upstream's; without ``value`` it need only be there."""

    header: str
    value: HeaderValue | None = None

    @field_validator("header", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return header_name(value)


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


class EventValueBounds(Frozen):
    """What value an event may carry; one that carries another is refused.

    Attributes:
        min: the smallest value.
        max: the largest.
    """

    min: Annotated[float, Field(ge=0, le=LARGEST / VALUE_SCALE, allow_inf_nan=False)] = 0.0
    max: Annotated[float, Field(gt=0, le=LARGEST / VALUE_SCALE, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min >= self.max:
            raise refuse("the smallest value must be below the largest", "min", found=f"{self.min:g}", allowed="less")
        return self


class Event(Frozen):
    """A feedback event that is counted. Written as its name where it carries no value.

    Attributes:
        value: the values that it may carry, to three decimals; None means that it carries none.
    """

    name: EventName
    value: EventValueBounds | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _built_in(self) -> Self:
        if self.name == CONTINUATION and self.value is not None:
            raise refuse(f"{CONTINUATION} is counted by itself and carries no value", "value", allowed="none")
        return self
