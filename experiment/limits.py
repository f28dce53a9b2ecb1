"""What a candidate must keep and what it should improve: guardrails and the goal. Pure.

:mod:`experiment.rollout` puts them into a plan.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from experiment import metrics
from experiment.parts import Frozen, refuse
from experiment.quantities import Limit
from experiment.texts import Flag

LimitKind = Literal["max", "max_increase", "min", "max_decrease"]
LIMITS: tuple[LimitKind, ...] = ("max", "max_increase", "min", "max_decrease")


class Guardrail(Frozen):
    """A limit that the candidate must keep; breaking it rolls the candidate back.

    Exactly one of the four limits is given. A share for rates, a duration for latencies, a plain number for everything
    else; with ``relative``, a share of the control's value.

    Attributes:
        max: highest value allowed.
        max_increase: how far above the control's value it may be.
        min: lowest value allowed.
        max_decrease: how far below the control's value it may be.
        harm: with ``max_increase`` and ``max_decrease``, what counts as proven harm: a change beyond the ``limit``, or
            ``any`` change in that direction that is not proven to stay within it.
    """

    metric: str
    max: Limit | None = None
    max_increase: Limit | None = None
    min: Limit | None = None
    max_decrease: Limit | None = None
    relative: Flag = False
    harm: Literal["limit", "any"] = "limit"

    @property
    def measured(self) -> metrics.Metric:
        """What the guardrail's metric is."""
        return _metric(self.metric)

    @property
    def kind(self) -> LimitKind:
        """Which limit is given."""
        return next(kind for kind in LIMITS if getattr(self, kind) is not None)

    @property
    def limit(self) -> float | timedelta:
        """The limit that is given."""
        limit: float | timedelta = getattr(self, self.kind)
        return limit

    @property
    def compares(self) -> bool:
        """Whether the limit is a distance from the control's value."""
        return self.kind in ("max_increase", "max_decrease")

    @property
    def upper(self) -> bool:
        """Whether values above the limit are harm; otherwise those below it are."""
        return self.kind in ("max", "max_increase")

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        return _known_metric(value)

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        given = [kind for kind in LIMITS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise refuse("exactly one limit is needed", found=found, allowed=", ".join(LIMITS))
        if self.relative and not self.compares:
            raise refuse(
                "only max_increase and max_decrease can be relative", "relative", found="true", allowed="false"
            )
        if self.harm == "any" and not self.compares:
            raise refuse("only a change from the control can be any change", "harm", found="any", allowed="limit")
        _check_amount(self.measured, self.limit, relative=self.relative, what="limit", field=self.kind)
        if not self.limit:
            allowed = "more than 0: no number of requests can show that a candidate keeps a limit of nothing"
            raise refuse("a limit of nothing can never be shown to be kept", self.kind, allowed=allowed)
        if self.kind == "max_decrease" and self.relative and self.limit == 1:
            message = "a decrease by all of the control's value is no limit"
            raise refuse(message, self.kind, found="100%", allowed="less than 100%")
        return self


class Goal(Frozen):
    """What the candidate should improve.

    In mode ``rollout`` it is reported: a promotion is called a win only if the goal is better. In mode ``experiment``
    it decides.

    Attributes:
        metric: a rate or a mean.
        increase: whether more is better.
        min_effect: the smallest difference worth having; None means any. With it an experiment ends early where
            nothing worth having is left to find.
        relative: whether ``min_effect`` is a share of the control's value.
        design: ``anytime`` decides at any look; ``group_sequential`` at ``looks`` planned ones, with fewer requests.
        looks: how many looks a group-sequential design plans, the last at ``planned_requests``.
        planned_requests: of the candidate, after which an undecided experiment is inconclusive.
    """

    metric: str
    increase: Flag = True
    min_effect: Limit | None = None
    relative: Flag = False
    design: Literal["anytime", "group_sequential"] = "anytime"
    looks: Annotated[int, Field(ge=1, le=50, strict=True)] = 5
    planned_requests: Annotated[int, Field(ge=100, le=10**12, strict=True)] | None = None

    @property
    def measured(self) -> metrics.Metric:
        """What the goal's metric is."""
        return _metric(self.metric)

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        return _known_metric(value)

    @model_validator(mode="after")
    def _effect_fits(self) -> Self:
        if self.min_effect is None:
            if self.relative:
                raise refuse("only min_effect can be relative", "relative", found="true", allowed="false")
            return self
        _check_amount(self.measured, self.min_effect, relative=self.relative, what="effect", field="min_effect")
        return self


def _metric(name: str) -> metrics.Metric:
    found = metrics.find(name)
    assert found is not None  # its validator saw to that
    return found


def _known_metric(name: str) -> str:
    """A name that could be a metric; the experiment knows whether it is one of its own."""
    if metrics.find(name) is None:
        raise refuse("not a metric", found=name, allowed=f"{', '.join(metrics.MEASURED)}, or one of an event")
    return name


def _check_amount(metric: metrics.Metric, amount: float | timedelta, *, relative: bool, what: str, field: str) -> None:
    """Refuse an amount that is not written in the metric's unit."""
    share = relative or metric.unit == "share"
    if isinstance(amount, timedelta):
        fits = metric.unit == "duration" and not relative
    else:
        fits = amount <= 1 if share else metric.unit != "duration"
    if not fits:
        if share:
            allowed = "a percentage such as 5%"
        elif metric.unit == "duration":
            allowed = "a duration such as 250ms"
        else:
            allowed = "a plain number such as 0.002" if metric.unit == "dollars" else "a plain number such as 100"
        raise refuse(f"{metric.name} has no such {what}", field, allowed=allowed)
