"""How a candidate is rolled out: steps, stages, warm-up, and how sure decisions must be. Pure.

:mod:`abmesh.experiment.model` puts it into an experiment.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from abmesh.experiment.checks import Check
from abmesh.experiment.fields import Headers, PathPrefix
from abmesh.experiment.limits import Goal, Guardrail, OnHarm
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import format_weight
from abmesh.experiment.quantity_types import Duration, Share, Weight
from abmesh.experiment.validation import Frozen, header_map, own_headers, raise_all, refuse, repeated


class Stage(Frozen):
    """What every step needs before the next one begins.

    Attributes:
        min_duration: shortest time on a step.
        min_requests: fewest requests of the candidate on a step.
        max_duration: time after which ``on_timeout`` applies; without it a step may last indefinitely.
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


class Warmup(Frozen):
    """Requests that the controller sends to a candidate before it gets its first users.

    They go through Envoy's warm-up listener, which counts no statistics, so they are not evidence. A candidate is warm
    once its response times stop falling, or is assumed to be warm when a limit is reached, which is reported.

    Attributes:
        path: path of the request.
        method: method of the request.
        body: body of the request.
        headers: headers of the request.
        concurrency: number of requests at the same time.
        min_requests: fewest requests.
        max_requests: requests after which the candidate is assumed to be warm.
        max_duration: time after which the candidate is assumed to be warm.
        settled: how far the median response time of the last requests may be below that of as many before, for the
            candidate to count as warm.
    """

    path: PathPrefix
    method: Literal["GET", "POST"] = "POST"
    body: Annotated[str, Field(max_length=65536)] = ""
    headers: Headers = Field(default={})
    concurrency: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    min_requests: Annotated[int, Field(ge=2, le=10_000, strict=True)] = 10
    max_requests: Annotated[int, Field(ge=2, le=100_000, strict=True)] = 100
    max_duration: Duration = timedelta(minutes=5)
    settled: Share = 0.1

    _lower_headers = field_validator("headers", mode="before")(header_map)
    _own_headers = field_validator("headers")(own_headers)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_requests < self.min_requests:
            allowed = f"at least min_requests, {self.min_requests}"
            raise refuse("fewer than min_requests", "max_requests", found=str(self.max_requests), allowed=allowed)
        if self.max_duration <= timedelta():
            raise refuse("a warm-up needs time", "max_duration", allowed="more than 0s")
        if self.method == "GET" and self.body:
            raise refuse("a GET has no body", "body", allowed="no body, or method: POST")
        return self


class Analysis(Frozen):
    """How sure a decision must be.

    Attributes:
        alpha: highest probability, over a whole rollout with any number of looks, of rolling back (or pausing) a
            candidate that does no harm. It is split evenly over the guardrails that act, the emergency stop and, in an
            experiment, the goal, where a worse candidate is rolled back. It is also the error probability of each
            guardrail's ``healthy``, which needs no split because all guardrails must be healthy; a win in an experiment
            has half of it.
        emergency_stop: a candidate whose error rate is significantly above this, and above the control's if that has
            users, is rolled back whatever the guardrails say. 100% turns it off.
        emergency_stop_after_promotion: how long after its promotion a candidate that fails so often is still rolled
            back, if the control answers a probe; 0s for not at all.
        sample_ratio_alpha: highest probability of a false alarm that requests are not split as the weights promise.
        on_sample_ratio: whether that alarm holds the rollout or is only reported.
        tuned_for: number of the candidate's requests at which intervals are narrowest; default: the stage's
            ``min_requests``.
    """

    renamed_fields: ClassVar = {"brake": "emergency_stop"}

    alpha: Share = 0.05
    emergency_stop: Share = 0.10
    emergency_stop_after_promotion: Duration = timedelta(minutes=30)
    sample_ratio_alpha: Share = 0.01
    on_sample_ratio: Literal["hold", "report"] = "hold"
    tuned_for: Annotated[int, Field(ge=1, le=10**12, strict=True)] | None = None

    @field_validator("alpha", "sample_ratio_alpha")
    @classmethod
    def _possible(cls, value: float) -> float:
        if not 1e-6 <= value <= 0.5:
            raise refuse("not a possible error probability", found=f"{value:g}", allowed="0.0001% to 50%")
        return value

    @field_validator("emergency_stop")
    @classmethod
    def _above_nothing(cls, value: float) -> float:
        if value < 0.01:
            raise refuse("too low for an emergency stop; use a guardrail", found=f"{value:g}", allowed="1% to 100%")
        return value


class Rollout(Frozen):
    """The plan by which the candidate's weight is raised.

    Attributes:
        candidate: name of the variant that is rolled out.
        mode: ``rollout`` raises the candidate's weight while it does no harm; ``experiment`` keeps one split until the
            goal is decided.
        steps: weights of the candidate, each higher than the one before.
        stage: what every step needs before the next one begins.
        on_timeout: what happens when a stage lasts longer than its ``max_duration``.
        on_harm: what a guardrail that finds harm does unless it says otherwise: ``rollback``, or ``pause``, which keeps
            the weights until ``abmesh resume``. The emergency stop always rolls back.
        on_broken_control: what happens while the control itself is significantly beyond an absolute guardrail or the
            emergency stop: ``hold``, or ``advance`` as if it were not. It gets no users back either way.
        guardrails: limits that the candidate must keep.
        goal: what the candidate should improve; the primary one, which decides an experiment.
        secondary_goals: further goals, which are reported, corrected for their number, and decide nothing.
        checks: other people's numbers, which hold or roll back by a threshold, outside of the error probability.
        analysis: how sure decisions must be.
        warmup: requests to the candidate before its first users; leave it out for no warm-up.
    """

    candidate: str
    mode: Literal["rollout", "experiment"] = "rollout"
    steps: Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100)]
    stage: Stage = Stage()
    on_timeout: Literal["hold", "rollback"] = "hold"
    on_harm: OnHarm = "rollback"
    on_broken_control: Literal["hold", "advance"] = "hold"
    guardrails: Annotated[tuple[Guardrail, ...], Field(max_length=50)] = ()
    goal: Goal | None = None
    secondary_goals: Annotated[tuple[Goal, ...], Field(max_length=20)] = ()
    checks: Annotated[tuple[Check, ...], Field(max_length=50)] = ()
    analysis: Analysis = Analysis()
    warmup: Warmup | None = None

    @property
    def goals(self) -> tuple[Goal, ...]:
        """All goals, the primary one first."""
        return self.secondary_goals if self.goal is None else (self.goal, *self.secondary_goals)

    @property
    def tuned_for(self) -> int:
        """Number of the candidate's requests at which intervals are narrowest."""
        return self.analysis.tuned_for or max(self.stage.min_requests, 100)

    @property
    def alarms(self) -> int:
        """Number of alarms that share ``alpha``: guardrails that act, the emergency stop, an experiment's goal."""
        acting = sum(not guardrail.dry_run for guardrail in self.guardrails)
        return acting + (self.analysis.emergency_stop < 1) + (self.mode == "experiment")

    @property
    def alpha_alarm(self) -> float:
        """The part of ``alpha`` that each alarm gets."""
        return self.analysis.alpha / max(self.alarms, 1)

    @property
    def alpha_better(self) -> float:
        """Highest probability of calling a candidate better on the goal when it is not."""
        return self.analysis.alpha / 2

    @property
    def alpha_worse(self) -> float:
        """Highest probability of calling a candidate worse when it is not; in an experiment this is an alarm."""
        return min(self.alpha_better, self.alpha_alarm) if self.mode == "experiment" else self.alpha_better

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

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        raise_all(repeated((check.name for check in self.checks), "check", "checks", field="name"))
        return self

    @model_validator(mode="after")
    def _secondary_beside_a_primary(self) -> Self:
        if self.secondary_goals and self.goal is None:
            raise refuse("secondary goals stand beside a primary one", "secondary_goals", allowed="with goal")
        known = set() if self.goal is None else {self.goal.metric}
        for place, goal in enumerate(self.secondary_goals):
            if goal.metric in known:
                message, allowed = "this is a goal already", "each metric once, the primary goal's included"
                raise refuse(message, "secondary_goals", place, "metric", found=goal.metric, allowed=allowed)
            known.add(goal.metric)
            if goal.design != "anytime":
                where = ("secondary_goals", place, "design")
                raise refuse("only the primary goal has planned looks", *where, found=goal.design, allowed="anytime")
        return self

    @model_validator(mode="after")
    def _can_decide(self) -> Self:
        goal = self.goal
        if self.mode == "rollout":
            if goal is not None and goal.design != "anytime":
                message = "only mode: experiment has planned looks"
                raise refuse(message, "goal", "design", found=goal.design, allowed="anytime")
            return self
        if len(self.steps) != 1 or self.steps[0] == BUCKETS:
            raise refuse("an experiment keeps one split", "steps", allowed="exactly one step, below 100")
        if goal is None:
            raise refuse("an experiment needs a goal to decide on", found="no goal", allowed="goal: {metric: ...}")
        if goal.measured.quantile is not None:
            allowed = f"any metric but a quantile, such as {goal.metric.partition('_')[0]}_mean"
            raise refuse("a quantile cannot decide an experiment", "goal", "metric", found=goal.metric, allowed=allowed)
        if goal.planned_requests is None:
            message = "an experiment needs the number of requests at which it ends undecided; abmesh plan computes it"
            raise refuse(message, "goal", found="no planned_requests", allowed="planned_requests: a whole number")
        return self
