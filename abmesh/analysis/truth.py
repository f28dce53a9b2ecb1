"""What is true of users and variants in a simulation, as plain data. Pure.

:mod:`abmesh.analysis.crowd` draws users and requests from it; :func:`true_value` says what a metric truly is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scipy.special import ndtri

from abmesh.experiment import metrics
from abmesh.experiment.metrics import Metric
from abmesh.experiment.parts import Price

LATE: Final = 1_000
"""For :attr:`HeavyUser.joins`: as late as the steps allow."""

_SPEEDS: Final = "tokens_per_second"
_VALUES: Final = "_value_mean"
_TOKENS: Final = 100
"""Tokens of a stream where the truth does not say how long answers are."""


@dataclass(frozen=True, slots=True)
class HeavyUser:
    """One user who sends a share of all requests.

    Attributes:
        share: of all requests, 0..1.
        error_rate: of this user's requests, on either variant and whatever the others meet; None: like anybody else's.
        joins: which of the rollout's steps first gives the candidate this user, counted from 1; one beyond the last
            keeps the user on the control as long as possible (:data:`LATE`); None: wherever a hash puts the user.
        segment: that this user belongs to; empty: none that is declared.
    """

    share: float
    error_rate: float | None = None
    joins: int | None = None
    segment: str = ""


@dataclass(frozen=True, slots=True)
class Outage:
    """A share of a variant's requests that fails whoever sends them.

    Attributes:
        share: of the requests, 0..1.
        fast: whether these fail within 5 ms; otherwise they take as long as other answers.
    """

    share: float = 0.0
    fast: bool = False


NO_OUTAGE: Final = Outage()


@dataclass(frozen=True, slots=True)
class Segment:
    """A declared segment of the users.

    Attributes:
        name: as the document declares it.
        users: how many of the users are in it.
        traffic: share of all requests that they send, 0..1; None: as much as their activities make.
    """

    name: str
    users: int
    traffic: float | None = None


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that answers have or users do, beside errors and durations.

    Attributes:
        metric: a rate of answers (``cache_rate``, ``refusal_rate``), the rate of an event (``click_rate``), the mean
            value of an event that has a rate (``click_value_mean``), ``input_tokens_mean``, ``output_tokens_mean``,
            ``ttft_mean`` in milliseconds, or ``tokens_per_second``.
        value: the control's.
        factor: the candidate's over the control's.
        between: coefficient of variation of the users' own values.
        within: the same of one user's requests; a rate has none.

    Raises:
        ValueError: the metric is not one of these, or a rate is out of range or cannot vary so much.
    """

    metric: str
    value: float
    factor: float = 1.0
    between: float = 0.5
    within: float = 0.5

    def __post_init__(self) -> None:
        if self.kind is None:
            raise ValueError(f"{self.metric} is not a quantity that can be simulated")
        if self.is_rate:
            if not 0 <= self.value <= 1 or not 0 <= self.value * self.factor <= 1:
                raise ValueError(f"{self.metric}: {self.value:g} x {self.factor:g} is not a share of requests")
            if self.between and self.between**2 * self.value >= 1 - self.value:
                most = math.sqrt((1 - self.value) / self.value)
                raise ValueError(f"{self.metric}: users' rates around {self.value:g} vary by less than {most:.3g}")

    @property
    def kind(self) -> str | None:
        """What is counted: an amount of :mod:`abmesh.experiment.metrics`; None where it cannot be."""
        known = {
            "cache_rate": metrics.CACHED,
            "refusal_rate": metrics.REFUSALS,
            "input_tokens_mean": metrics.INPUT_TOKENS,
            "output_tokens_mean": metrics.OUTPUT_TOKENS,
            "ttft_mean": metrics.TTFT_MS,
            _SPEEDS: metrics.GENERATION_MS,
        }
        if self.metric in known:
            return known[self.metric]
        if self.metric in metrics.MEASURED:
            return None
        event, ending = metrics.split_event(self.metric)
        amounts = {"_rate": metrics.EVENTS, _VALUES: metrics.EVENT_VALUE}
        return metrics.of_event(amounts[ending], event) if ending in amounts else None

    @property
    def is_rate(self) -> bool:
        """Whether it happens to a share of the requests; otherwise each request has some of it."""
        return self.kind in (metrics.CACHED, metrics.REFUSALS) or self.metric.endswith("_rate")

    @property
    def event(self) -> str:
        """The event that it is about; empty if it is about none."""
        return metrics.event_of(self.metric)

    def of(self, *, candidate: bool) -> float:
        """A variant's true value."""
        return self.value * (self.factor if candidate else 1.0)


@dataclass(frozen=True, slots=True)
class Truth:
    """The true properties of the variants and their users.

    Attributes:
        users: how many there are, heavy ones aside.
        requests_per_second: of all of them together.
        activity: shape of the Pareto distribution of the users' activities; smaller is more uneven, 1.2 heavy-tailed.
        error_rate: of the control, 0..1.
        error_factor: the candidate's error rate over the control's.
        error_spread: standard deviation of the logarithm of the users' own error rates.
        latency_ms: median duration of the control's requests, in milliseconds.
        latency_factor: the candidate's durations over the control's.
        latency_spread: standard deviation of the logarithm of durations.
        latency_between: share of that variance that lies between users, 0..1.
        drift: amplitude of a daily wave in error rate and load, 0..1.
        busiest: a user's activity is at most so many times the least active one's; None: no bound.
        error_cv2: squared coefficient of variation of the users' own error rates, which then have a gamma distribution
            instead of ``error_spread``'s lognormal one.
        control: what of the control's requests fails for everybody.
        candidate: the same of the candidate.
        harm_after: seconds from the start after which both outages and the candidate's factors begin.
        heavy: users with a share of the traffic each, beside the others.
        quantities: what else there is to measure.
        segments: that the document declares; everybody else is in ``other``.
    """

    users: int = 5000
    requests_per_second: float = 20.0
    activity: float = 2.0
    error_rate: float = 0.01
    error_factor: float = 1.0
    error_spread: float = 0.5
    latency_ms: float = 200.0
    latency_factor: float = 1.0
    latency_spread: float = 0.5
    latency_between: float = 0.25
    drift: float = 0.0
    busiest: float | None = None
    error_cv2: float | None = None
    control: Outage = NO_OUTAGE
    candidate: Outage = NO_OUTAGE
    harm_after: float = 0.0
    heavy: tuple[HeavyUser, ...] = ()
    quantities: tuple[Quantity, ...] = ()
    segments: tuple[Segment, ...] = ()

    def quantity(self, metric: str) -> Quantity | None:
        """The quantity of a metric's name, if there is one."""
        return next((item for item in self.quantities if item.metric == metric), None)

    def amounts(self, *, candidate: bool, price: Price | None = None) -> dict[str, float]:
        """What one request adds on average to each amount that is simulated, heavy users aside.

        Args:
            candidate: of the candidate rather than of the control.
            price: of the variant's tokens; None: no costs.
        """
        outage = (self.candidate if candidate else self.control).share
        own = min(1.0, self.error_rate * (self.error_factor if candidate else 1.0))
        errors = 1 - (1 - own) * (1 - outage)
        found = {metrics.ANSWERED: 1.0, metrics.ENDED: 1.0, metrics.ERRORS: errors, metrics.SUCCEEDED: 1 - errors}
        for item in self.quantities:
            assert item.kind is not None
            value = item.of(candidate=candidate)
            if item.kind == metrics.GENERATION_MS:
                found[item.kind] = 1000 * self.stream_tokens(candidate=candidate) / value
                found[metrics.STREAMED_TOKENS], found[metrics.STREAMS] = self.stream_tokens(candidate=candidate), 1.0
            elif item.metric.endswith(_VALUES):
                rate = self.quantity(metrics.event_rate(item.event))
                often = 0.0 if rate is None else rate.of(candidate=candidate)
                found[item.kind] = metrics.VALUE_SCALE * value * often
                found[metrics.of_event(metrics.VALUED_EVENTS, item.event)] = often
            else:
                found[item.kind] = value
            if item.kind in (metrics.INPUT_TOKENS, metrics.OUTPUT_TOKENS):
                found[metrics.USAGE] = 1.0
            if item.kind == metrics.TTFT_MS:
                found[item.kind], found[metrics.FIRST_TOKENS] = value * (1 - errors), 1 - errors
        found[metrics.TIMED] = 1 - found.get(metrics.CACHED, 0.0)
        found[metrics.SERVED] = found[metrics.TIMED] * (1 - errors)
        mean = self.latency_ms * (self.latency_factor if candidate else 1.0) * math.exp(self.latency_spread**2 / 2)
        found[metrics.SERVED_MS] = mean * found[metrics.SERVED]
        if price is not None and metrics.USAGE in found:
            tokens = ((metrics.INPUT_TOKENS, price.input), (metrics.OUTPUT_TOKENS, price.output))
            dollars = sum(found.get(name, 0.0) * each for name, each in tokens) / 10**6
            found[metrics.COST] = dollars * metrics.NANODOLLARS
        return found

    def stream_tokens(self, *, candidate: bool) -> float:
        """Tokens of a streamed answer, on average."""
        item = self.quantity("output_tokens_mean")
        return float(_TOKENS) if item is None else item.of(candidate=candidate)


def measurable(metric: Metric, truth: Truth, *, priced: bool = True) -> bool:
    """Whether a simulation of this truth has data for a metric.

    Args:
        metric: any.
        truth: what is simulated.
        priced: whether the variants have prices, so that tokens cost something.
    """
    if metric.quantile is not None:
        return metric.histogram == "duration" or truth.quantity("ttft_mean") is not None
    known = truth.amounts(candidate=False, price=Price(input=1, output=1) if priced else None)
    return all(name in known for name in [*(name for name, _ in metric.parts), *metric.per])


def true_value(
    metric: Metric, truth: Truth, *, candidate: bool, prices: Mapping[bool, Price | None] | None = None
) -> float:
    """A variant's true value of a metric, for everybody but heavy users.

    Durations are lognormal over all requests, however they vary between users. Fast failures are left out of latencies,
    as latencies are of answers that succeed.

    Args:
        metric: that is measurable in this truth, and no quantile of anything but durations.
        truth: what is simulated.
        candidate: of the candidate rather than of the control.
        prices: of the candidate's tokens (True) and of the control's (False), where costs are asked for.

    Raises:
        ValueError: the truth has no such value.
    """
    if metric.quantile is not None and metric.histogram == "duration":
        median = truth.latency_ms * (truth.latency_factor if candidate else 1.0)
        return median * math.exp(float(ndtri(metric.quantile)) * truth.latency_spread)
    if metric.quantile is not None or not measurable(metric, truth, priced=prices is not None):
        raise ValueError(f"{metric.name} has no true value in this simulation")
    found = truth.amounts(candidate=candidate, price=None if prices is None else prices[candidate])
    per = sum(found[name] for name in metric.per)
    return sum(weight * found[name] for name, weight in metric.parts) / per if per else 0.0
