"""What a candidate must keep and what it should improve: guardrails and the goal. Pure.

:mod:`abmesh.experiment.rollout` puts them into a plan.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from abmesh.experiment import metrics
from abmesh.experiment.fields import Flag
from abmesh.experiment.quantities import Limit, Percentage
from abmesh.experiment.validation import Frozen, did_you_mean, refuse

LimitKind = Literal["max", "max_increase", "min", "max_decrease"]
LIMITS: tuple[LimitKind, ...] = ("max", "max_increase", "min", "max_decrease")


class Guardrail(Frozen):
    """A limit that the candidate must keep; breaking it rolls the candidate back.

    Exactly one of the four limits is given, and not one that only a better candidate could break. A share for rates, a
    duration for latencies, a plain number for everything else; with ``relative``, a share of the control's value.

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
            raise refuse("exactly one limit is needed", found=found, allowed=f"one of {', '.join(LIMITS)}")
        if self.relative and not self.compares:
            message = "only max_increase and max_decrease can be relative"
            raise refuse(message, "relative", found="true", allowed="false")
        if self.harm == "any" and not self.compares:
            message = "only a change from the control can be any change"
            raise refuse(message, "harm", found="any", allowed="limit")
        _check_way(self.measured, self.kind, upper=self.upper)
        _check_amount(self.measured, self.limit, self.kind, relative=self.relative, compares=self.compares)
        _check_provable(self.measured, self.kind, self.limit, compares=self.compares, relative=self.relative)
        return self


class Goal(Frozen):
    """What the candidate should improve.

    In mode ``rollout`` it is reported: a promotion is called a win only if the goal is better. In mode ``experiment``
    it decides.

    Attributes:
        metric: a rate or a mean.
        increase: whether more is better; None where the metric says so by itself.
        min_effect: the smallest difference worth having; None means any. With it an experiment ends early where
            nothing worth having is left to find.
        relative: whether ``min_effect`` is a share of the control's value.
        design: ``anytime`` decides at any look; ``group_sequential`` at ``looks`` planned ones, with fewer requests.
        looks: how many looks a group-sequential design plans, the last at ``planned_requests``.
        planned_requests: of the candidate, after which an undecided experiment is inconclusive.
    """

    metric: str
    increase: Flag | None = None
    min_effect: Limit | None = None
    relative: Flag = False
    design: Literal["anytime", "group_sequential"] = "anytime"
    looks: Annotated[int, Field(ge=1, le=50, strict=True)] = 5
    planned_requests: Annotated[int, Field(ge=100, le=10**12, strict=True)] | None = None

    @property
    def measured(self) -> metrics.Metric:
        """What the goal's metric is."""
        return _metric(self.metric)

    @property
    def more_is_better(self) -> bool:
        """Whether a candidate with more of the metric is better."""
        found = self.measured.more_is_better if self.increase is None else self.increase
        assert found is not None  # its validator saw to that
        return found

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        return _known_metric(value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.increase is None and self.measured.more_is_better is None:
            message = f"{self.metric} does not say by itself whether more is better"
            raise refuse(message, "increase", found="nothing", allowed="true or false")
        if self.min_effect is None:
            if self.relative:
                raise refuse("only min_effect can be relative", "relative", found="true", allowed="false")
            return self
        _check_amount(self.measured, self.min_effect, "min_effect", relative=self.relative, compares=True)
        if not _size(self.min_effect) > 0:
            raise refuse("an effect of nothing", "min_effect", allowed="more than 0; leave it out for any effect")
        return self


def _metric(name: str) -> metrics.Metric:
    found = metrics.find(name)
    assert found is not None  # its validator saw to that
    return found


def _size(amount: float | timedelta) -> float:
    return amount.total_seconds() if isinstance(amount, timedelta) else amount


def _known_metric(name: str) -> str:
    """A name that could be a metric; the experiment knows whether it is one of its own."""
    if metrics.find(name) is None:
        of_events = [f"EVENT{ending}" for ending in metrics.OF_EVENTS]
        known = (*metrics.MEASURED, *metrics.COSTS, metrics.THUMBS.name, *of_events)
        allowed = f"{', '.join(known)}, where EVENT is an event's name"
        raise refuse(did_you_mean("not a metric", name, known), found=name, allowed=allowed)
    return name


def _check_way(metric: metrics.Metric, kind: LimitKind, *, upper: bool) -> None:
    """Refuse a limit that a candidate could only break by being better."""
    if metric.more_is_better is not None and metric.more_is_better == upper:
        better, instead = ("higher", "min or max_decrease") if upper else ("lower", "max or max_increase")
        message = f"a {better} {metric.name} is better, so that this limit would forbid an improvement"
        raise refuse(message, kind, found=kind, allowed=instead)


def _check_amount(
    metric: metrics.Metric, amount: float | timedelta, field: str, *, relative: bool, compares: bool
) -> None:
    """Refuse an amount that is not written in the metric's unit."""
    if relative and metric.signed:
        message = f"{metric.name} may be 0 or below, so that a share of the control's value means nothing"
        raise refuse(message, "relative", found="true", allowed="false")
    share = relative or metric.unit == "share"
    if isinstance(amount, timedelta):
        fits = metric.unit == "duration" and not relative
    elif share:
        fits = amount <= 1
    else:
        fits = metric.unit != "duration" and not isinstance(amount, Percentage)
    if not fits:
        what = "effect" if field == "min_effect" else "limit"
        raise refuse(f"{metric.name} has no such {what}", field, allowed=_form(metric, share=share, compares=compares))


def _form(metric: metrics.Metric, *, share: bool, compares: bool) -> str:
    if share:
        return "a percentage such as 5%"
    forms: dict[metrics.Unit, str] = {
        "duration": "a duration such as 250ms",
        "dollars": "US dollars as a plain number such as 0.002",
        "number": f"a plain number such as {0.2 if metric.signed else 100}",
    }
    of_control = "; or a percentage such as 5% of the control's value, with relative: true"
    return forms[metric.unit] + (of_control if compares and not metric.signed else "")


def _check_provable(
    metric: metrics.Metric, kind: LimitKind, limit: float | timedelta, *, compares: bool, relative: bool
) -> None:
    """Refuse a limit that no number of requests could show to be kept."""
    value = _size(limit)
    if metric.signed and not compares:
        if not -1 < value < 1:
            raise refuse("a limit that every value keeps or breaks", kind, allowed="more than -1 and less than 1")
        return
    if value < 0:
        raise refuse("a limit below nothing", kind, allowed="more than 0")
    if value == 0:
        allowed = "more than 0: no number of requests can show that a candidate keeps a limit of nothing"
        raise refuse("a limit of nothing can never be shown to be kept", kind, allowed=allowed)
    if value == 1 and ((kind == "min" and metric.unit == "share") or (kind == "max_decrease" and relative)):
        message = "all of it can never be shown to be kept" if kind == "min" else "a decrease by all of it is no limit"
        raise refuse(message, kind, allowed="less than 100%")
