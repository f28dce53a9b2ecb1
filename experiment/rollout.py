"""How a candidate is rolled out: steps, stages, guardrails and the goal. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from experiment import metrics
from experiment.names import BUCKETS
from experiment.parts import Frozen, refuse
from experiment.quantities import Duration, Limit, Share, Weight, format_weight
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
        harm: with ``max_increase``, what counts as proven harm: an increase beyond the ``limit``, or ``any`` increase
            that is not proven to stay within it.
    """

    metric: str
    max: Limit | None = None
    max_increase: Limit | None = None
    relative: Flag = False
    harm: Literal["limit", "any"] = "limit"

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
        if self.harm == "any" and self.max is not None:
            raise refuse("only an increase can be any increase", "harm", found="any", allowed="limit")
        field, limit = ("max", self.max) if self.max is not None else ("max_increase", self.max_increase)
        wants_duration = self.measured.unit == "duration" and not self.relative
        if isinstance(limit, timedelta) != wants_duration:
            allowed = "a duration such as 250ms" if wants_duration else "a percentage such as 5%"
            raise refuse(f"{self.metric} has no such limit", field, allowed=allowed)
        if not limit:
            allowed = "more than 0: no number of requests can show that a candidate keeps a limit of nothing"
            raise refuse("a limit of nothing can never be shown to be kept", field, allowed=allowed)
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
    def measured(self) -> metrics.Metric | None:
        """What the goal's metric is; None for one that nobody measures."""
        return metrics.MEASURED.get(self.metric)

    @model_validator(mode="after")
    def _effect_fits(self) -> Self:
        if self.min_effect is None:
            if self.relative:
                raise refuse("only min_effect can be relative", "relative", found="true", allowed="false")
            return self
        wants_duration = self.measured is not None and self.measured.unit == "duration" and not self.relative
        if isinstance(self.min_effect, timedelta) != wants_duration:
            allowed = "a duration such as 20ms" if wants_duration else "a percentage such as 5%"
            raise refuse(f"{self.metric} has no such effect", "min_effect", allowed=allowed)
        return self


class Analysis(Frozen):
    """How sure a decision must be.

    Attributes:
        alpha: how probable it may be, over a whole rollout with any number of looks, that a candidate that does no harm
            is rolled back. Split evenly over the guardrails, the brake and, in an experiment, the goal, on which a
            candidate that is worse is rolled back. Also the error of each guardrail's ``healthy``, which needs no split
            because all of them must be healthy; half of it is that of an experiment's win.
        brake: the emergency brake: a candidate that surely fails more often than this, and more often than the control,
            is rolled back whatever the guardrails say. 100% turns it off.
        sample_ratio_alpha: the same for the alarm that requests are not split as the weights say.
        on_sample_ratio: whether that alarm holds the rollout, or is only reported.
        tuned_for: the candidate's requests at which intervals are narrowest for their error; the stage's
            ``min_requests`` unless given.
    """

    alpha: Share = 0.05
    brake: Share = 0.10
    sample_ratio_alpha: Share = 0.01
    on_sample_ratio: Literal["hold", "report"] = "hold"
    tuned_for: Annotated[int, Field(ge=1, le=10**12, strict=True)] | None = None

    @field_validator("alpha", "sample_ratio_alpha")
    @classmethod
    def _possible(cls, value: float) -> float:
        if not 1e-6 <= value <= 0.5:
            raise refuse("not an error probability", found=f"{value:g}", allowed="0.0001% to 50%")
        return value

    @field_validator("brake")
    @classmethod
    def _above_nothing(cls, value: float) -> float:
        if value < 0.01:
            raise refuse("too low for a brake; use a guardrail", found=f"{value:g}", allowed="1% to 100%")
        return value


class Rollout(Frozen):
    """The plan by which the candidate's weight is raised.

    Attributes:
        mode: ``rollout`` raises the candidate's weight while it does no harm; ``experiment`` keeps one split until the
            goal is decided.
        steps: weights of the candidate in basis points, rising.
        on_timeout: what to do when a stage lasts longer than its ``max_duration``.
    """

    candidate: str
    mode: Literal["rollout", "experiment"] = "rollout"
    steps: Annotated[tuple[Weight, ...], Field(min_length=1, max_length=100)]
    stage: Stage = Stage()
    on_timeout: Literal["hold", "rollback"] = "hold"
    guardrails: tuple[Guardrail, ...] = ()
    goal: Goal | None = None
    analysis: Analysis = Analysis()

    @property
    def tuned_for(self) -> int:
        """The candidate's requests at which intervals are narrowest."""
        return self.analysis.tuned_for or max(self.stage.min_requests, 100)

    @property
    def alarms(self) -> int:
        """How many alarms share ``alpha``: one a guardrail, the brake, and an experiment's goal, which may be lost."""
        return len(self.guardrails) + (self.analysis.brake < 1) + (self.mode == "experiment")

    @property
    def alpha_alarm(self) -> float:
        """The part of ``alpha`` that each alarm has."""
        return self.analysis.alpha / max(self.alarms, 1)

    @property
    def alpha_better(self) -> float:
        """How probable it may be that a candidate that is not better on the goal is called so."""
        return self.analysis.alpha / 2

    @property
    def alpha_worse(self) -> float:
        """How probable it may be that one that is not worse is called so, which in an experiment is an alarm."""
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
    def _can_decide(self) -> Self:
        goal = self.goal
        if self.mode == "rollout":
            if goal is not None and goal.design != "anytime":
                message = "a rollout looks at any time; only an experiment has planned looks"
                raise refuse(message, "goal", "design", found=goal.design, allowed="anytime, or mode: experiment")
            return self
        if len(self.steps) != 1 or self.steps[0] == BUCKETS:
            allowed = "exactly one step below 100, the split"
            raise refuse("an experiment keeps one split", "steps", allowed=allowed)
        if goal is None:
            raise refuse("an experiment needs a goal that decides it", found="no goal", allowed="goal: {metric: ...}")
        if goal.measured is None or goal.measured.quantile is not None:
            decisive = ", ".join(name for name, metric in metrics.MEASURED.items() if metric.quantile is None)
            raise refuse("not a rate or mean that is measured", "goal", "metric", found=goal.metric, allowed=decisive)
        if goal.planned_requests is None:
            message = "an experiment needs the size at which it ends undecided; abmesh plan computes it"
            raise refuse(message, "goal", found="no planned_requests", allowed="planned_requests: a whole number")
        return self
