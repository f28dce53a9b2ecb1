"""Guardrails, which the candidate must keep, and the goal, which it should improve. Pure.

:mod:`abmesh.experiment.rollout` puts them into a plan.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from abmesh.experiment import metrics
from abmesh.experiment.fields import Flag, SegmentValue
from abmesh.experiment.quantities import Percentage
from abmesh.experiment.quantity_types import Limit, Share
from abmesh.experiment.validation import Frozen, did_you_mean, refuse

LimitKind = Literal["max", "max_increase", "min", "max_decrease"]
OnHarm = Literal["rollback", "pause"]
LIMITS: tuple[LimitKind, ...] = ("max", "max_increase", "min", "max_decrease")


class Guardrail(Frozen):
    """A limit that the candidate must keep; breaking it rolls the candidate back, or does what ``on_harm`` says.

    Exactly one of the four limits is given, and not one that only a better candidate could break. It is a share for
    rates, a duration for latencies, a plain number for everything else; with ``relative``, a share of the control's
    value.

    Attributes:
        metric: the metric that is limited.
        segment: of the users whose value is limited; all users without one.
        max: highest allowed value.
        max_increase: how far the value may be above the control's.
        min: lowest allowed value.
        max_decrease: how far the value may be below the control's.
        relative: whether ``max_increase`` or ``max_decrease`` is a share of the control's value.
        negligible: with a relative ``max_increase`` of a share, a value that keeps the limit whatever the control's is:
            of what hardly ever happens, twice as much is little, and takes long to rule out.
        harm: with ``max_increase`` and ``max_decrease``, what counts as proven harm: a change beyond the ``limit``, or
            ``any`` change in that direction that is not proven to stay within the limit.
        per: what counts alike: every ``request``, or every ``user`` as far as slices of users tell, so that a busy
            client does not speak for everybody.
        on_harm: what proven harm does; default: the rollout's ``on_harm``.
        dry_run: whether the guardrail is only reported: it neither acts nor holds, and takes no part of ``alpha``.
    """

    metric: str
    segment: SegmentValue | None = None
    max: Limit | None = None
    max_increase: Limit | None = None
    min: Limit | None = None
    max_decrease: Limit | None = None
    relative: Flag = False
    negligible: Share | None = None
    harm: Literal["limit", "any"] = "limit"
    per: Literal["request", "user"] = "request"
    on_harm: OnHarm | None = None
    dry_run: Flag = False

    @property
    def measured(self) -> metrics.Metric:
        """The guardrail's metric."""
        return _metric(self.metric)

    @property
    def subject(self) -> str:
        """What is limited, in words: ``error_rate``, or ``error_rate of segment power``."""
        return self.metric if self.segment is None else f"{self.metric} of segment {self.segment}"

    @property
    def kind(self) -> LimitKind:
        """Which of the four limits is given."""
        return next(kind for kind in LIMITS if getattr(self, kind) is not None)

    @property
    def limit(self) -> float | timedelta:
        """The limit that is given."""
        limit: float | timedelta = getattr(self, self.kind)
        return limit

    @property
    def compares(self) -> bool:
        """Whether the limit is relative to the control's value."""
        return self.kind in ("max_increase", "max_decrease")

    @property
    def upper(self) -> bool:
        """Whether harm is a value above the limit; otherwise it is one below."""
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
        if self.negligible is not None:
            self._check_negligible(self.negligible)
        if self.harm == "any" and not self.compares:
            message = "any change can count as harm only with max_increase or max_decrease"
            raise refuse(message, "harm", found="any", allowed="limit")
        if self.per == "user" and not self.measured.by_user:
            raise refuse(_not_by_user(self.measured), "per", found="user", allowed="request")
        if self.per == "user" and self.segment is not None:
            message = "a segment's users are told apart by ten groups only, which is too few for a typical user"
            raise refuse(message, "per", found="user", allowed="request")
        if self.segment is not None and not metrics.in_segments(self.measured):
            known = ", ".join(item.name for item in metrics.MEASURED.values() if metrics.in_segments(item))
            allowed = f"{known}, costs, thumbs and EVENT_rate"
            raise refuse("it is not counted by segment", "metric", found=self.metric, allowed=allowed)
        _check_direction(self.measured, self.kind, upper=self.upper)
        _check_amount(self.measured, self.limit, self.kind, relative=self.relative, compares=self.compares)
        _check_provable(self.measured, self.kind, self.limit, compares=self.compares, relative=self.relative)
        return self

    def _check_negligible(self, value: float) -> None:
        if not (self.relative and self.kind == "max_increase" and self.measured.unit == "share"):
            message = "a negligible value needs a relative max_increase of a share"
            raise refuse(message, "negligible", found=f"{value:.4g}", allowed="nothing here")
        if not 0 < value < 1:
            raise refuse(
                "every value, or none, is negligible", "negligible", found=f"{value:.4g}", allowed="0.01% to 99%"
            )


class Goal(Frozen):
    """What the candidate should improve.

    In mode ``rollout`` it is only reported: a promotion counts as a win only if the goal is better. In mode
    ``experiment`` it decides.

    Attributes:
        metric: the metric that should improve; in mode ``experiment``, a rate or a mean.
        increase: whether more is better; may be left out if that is clear from the metric.
        min_effect: the smallest difference that matters; leave it out if any does. With it, an experiment ends early
            once a difference of that size is ruled out.
        relative: whether ``min_effect`` is a share of the control's value.
        design: ``anytime`` may decide at any look; ``group_sequential`` at ``looks`` planned ones, with fewer requests.
        looks: number of planned looks of a group-sequential design, the last at ``planned_requests``.
        planned_requests: the candidate's requests after which an undecided experiment is inconclusive.
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
        """The goal's metric."""
        return _metric(self.metric)

    @property
    def more_is_better(self) -> bool:
        """Whether a higher value is better."""
        found = self.measured.more_is_better if self.increase is None else self.increase
        assert found is not None  # its validator has checked
        return found

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        return _known_metric(value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.increase is None and self.measured.more_is_better is None:
            message = f"whether more {self.metric} is better depends on you"
            raise refuse(message, "increase", found="nothing", allowed="true or false")
        if self.min_effect is None:
            if self.relative:
                raise refuse("only min_effect can be relative", "relative", found="true", allowed="false")
            return self
        _check_amount(self.measured, self.min_effect, "min_effect", relative=self.relative, compares=True)
        if not _size(self.min_effect) > 0:
            raise refuse("an effect of 0", "min_effect", allowed="more than 0; leave it out if any effect matters")
        return self


def _metric(name: str) -> metrics.Metric:
    found = metrics.find(name)
    assert found is not None  # its validator has checked
    return found


def _size(amount: float | timedelta) -> float:
    return amount.total_seconds() if isinstance(amount, timedelta) else amount


def _known_metric(name: str) -> str:
    """Refuse a name that no experiment could measure; :class:`~.model.Experiment` checks the rest."""
    if metrics.find(name) is None:
        of_events = [f"EVENT{ending}" for ending in metrics.OF_EVENTS]
        known = (*metrics.MEASURED, *metrics.COSTS, metrics.THUMBS.name, *of_events)
        allowed = f"{', '.join(known)}; EVENT stands for an event's name"
        raise refuse(did_you_mean("not a metric", name, known), found=name, allowed=allowed)
    return name


def missing_for(name: str, events: Collection[str], valued: Collection[str]) -> str:
    """What an experiment must declare to measure a metric that it does not have yet.

    Args:
        name: of the metric, which some experiment could measure.
        events: that the experiment declares.
        valued: those of them that carry a value.
    """
    if name in metrics.COSTS:
        return "costs need a price on every variant"
    if name == metrics.THUMBS.name:
        return f"it needs the events {metrics.THUMBS_UP} and {metrics.THUMBS_DOWN}"
    event, ending = metrics.split_event(name)
    if event not in events:
        return f"it needs an event {event}"
    if ending in metrics.OF_VALUES and event not in valued:
        return f"it needs a value on the event {event}"
    return "a session begins with an issued cookie, so it needs issue_cookie"


def _not_by_user(metric: metrics.Metric) -> str:
    if metric.quantile is not None:
        return f"{metric.name} is a quantile, which slices of users cannot be averaged over; a mean can"
    return f"{metric.name} is per session, and a session is a user already"


def _check_direction(metric: metrics.Metric, kind: LimitKind, *, upper: bool) -> None:
    """Refuse a limit that a candidate could only break by being better."""
    if metric.more_is_better is not None and metric.more_is_better == upper:
        better, instead = ("higher", "min or max_decrease") if upper else ("lower", "max or max_increase")
        message = f"a {better} {metric.name} is better, so this limit would forbid an improvement"
        raise refuse(message, kind, found=kind, allowed=instead)


def _check_amount(
    metric: metrics.Metric, amount: float | timedelta, field: str, *, relative: bool, compares: bool
) -> None:
    """Refuse an amount that is not in the metric's unit."""
    if relative and metric.signed:
        message = f"{metric.name} may be 0 or negative, so a share of the control's value is meaningless"
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
        raise refuse(
            f"not a possible {what} for {metric.name}", field, allowed=_form(metric, share=share, compares=compares)
        )


def _form(metric: metrics.Metric, *, share: bool, compares: bool) -> str:
    if share:
        return "a percentage such as 5%"
    forms: dict[metrics.Unit, str] = {
        "duration": "a duration such as 250ms",
        "dollars": "US dollars as a plain number such as 0.002",
        "number": f"a plain number such as {0.2 if metric.signed else 100}",
    }
    of_control = "; or with relative: true, a percentage of the control's value such as 5%"
    return forms[metric.unit] + (of_control if compares and not metric.signed else "")


def _check_provable(
    metric: metrics.Metric, kind: LimitKind, limit: float | timedelta, *, compares: bool, relative: bool
) -> None:
    """Refuse a limit that no number of requests could prove to be kept."""
    value = _size(limit)
    if metric.signed and not compares:
        if not -1 < value < 1:
            raise refuse(
                "a limit that every value keeps, or every value breaks", kind, allowed="more than -1 and less than 1"
            )
        return
    if value < 0:
        raise refuse("a limit below 0", kind, allowed="more than 0")
    if value == 0:
        raise refuse("no number of requests can prove that a limit of 0 is kept", kind, allowed="more than 0")
    if value == 1 and ((kind == "min" and metric.unit == "share") or (kind == "max_decrease" and relative)):
        what = "a minimum of 100% is kept" if kind == "min" else "less than everything was lost"
        message = f"no number of requests can prove that {what}"
        raise refuse(message, kind, allowed="less than 100%")
