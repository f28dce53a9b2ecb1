"""How a candidate is rolled out: steps, stages, guardrails and the goal. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from experiment import metrics
from experiment.parts import Frozen, refuse
from experiment.quantities import Duration, Limit, Weight, format_weight
from experiment.texts import Flag


class Stage(Frozen):
    """What every step must last and see before the next one.

    Attributes:
        min_duration: shortest time on a step.
        min_requests: fewest requests of the candidate on a step.
        max_duration: time after which ``on_timeout`` applies; none means that a step may last for ever.
    """

    min_duration: Duration = timedelta(hours=1)
    min_requests: Annotated[int, Field(ge=0, le=10**12, strict=True)] = 1000
    max_duration: Duration | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_duration is not None and self.max_duration <= self.min_duration:
            raise refuse(
                "max_duration must be longer than min_duration", "max_duration", allowed="more than min_duration"
            )
        return self


class Guardrail(Frozen):
    """A limit that the candidate must keep; breaking it rolls the candidate back.

    Exactly one of ``max`` and ``max_increase`` is given. A share for rates, a duration for latencies; with
    ``relative``, a share of the control's value.

    Attributes:
        max: highest value allowed.
        max_increase: how far above the control's value it may be.
    """

    metric: str
    max: Limit | None = None
    max_increase: Limit | None = None
    relative: Flag = False

    @property
    def measured(self) -> metrics.Metric:
        """What the guardrail's metric is."""
        return metrics.MEASURED[self.metric]

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in metrics.MEASURED:
            raise refuse("not a metric that a guardrail can watch", found=value, allowed=", ".join(metrics.MEASURED))
        return value

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.max is None) == (self.max_increase is None):
            found = "neither" if self.max is None else "both"
            raise refuse("exactly one limit is needed", found=found, allowed="max or max_increase")
        if self.relative and self.max is not None:
            raise refuse("only max_increase can be relative", "relative", found="true", allowed="false")
        field, limit = ("max", self.max) if self.max is not None else ("max_increase", self.max_increase)
        wants_duration = self.measured.unit == "duration" and not self.relative
        if isinstance(limit, timedelta) != wants_duration:
            allowed = "a duration such as 250ms" if wants_duration else "a percentage such as 5%"
            raise refuse(f"{self.metric} has no such limit", field, allowed=allowed)
        return self


class Goal(Frozen):
    """What the candidate should improve; recorded with the experiment."""

    metric: str
    increase: Flag = True


class Rollout(Frozen):
    """The plan by which the candidate's weight is raised.

    Attributes:
        steps: weights of the candidate in basis points, rising.
        on_timeout: what to do when a stage lasts longer than its ``max_duration``.
    """

    candidate: str
    steps: Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100)]
    stage: Stage = Stage()
    on_timeout: Literal["hold", "rollback"] = "hold"
    guardrails: tuple[Guardrail, ...] = ()
    goal: Goal | None = None

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        previous = 0
        for index, step in enumerate(steps):
            if step <= previous:
                found, after = format_weight(step), format_weight(previous)
                raise refuse("steps must rise", index, found=found, allowed=f"more than {after}")
            previous = step
        return steps
