"""When a guardrail will be decided, if the candidate stays as it is, and which way it moves. Pure.

Requests of a user who was seen before tell little that is new. The design effect phi, by which counts are divided, says
how little; so what grows with a stage is not its requests n but n / phi. While the same users return, phi grows with
the requests of each of them; while new users arrive, it stays. With ``w`` the part of today's phi that grows,

    phi(f n) = phi(n) (1 - w + w f)                         at f times today's requests,
    g(f) = f / (1 - w + w f)                                times today's evidence, never more than 1 / w,
    f(g) = g (1 - w) / (1 - w g)                            what it takes to have g times today's evidence.

This is exact for a fixed number of users who differ by chance: the variance of a slice's events around its expectation
is ``n R (1 - R) + n^2 c``, where c depends on the users alone, so phi is ``1 + n c / (R (1 - R))`` and w is
``1 - 1/phi``. It is exact for users who never return, with w = 0, and for a mixture of the two.

``w`` is fitted to the design effects that were measured at the stage's look-back checkpoints, by least squares through
today's, and drawn towards half of what it can be where they are all recent. Without any, it is 0. A forecast decides
nothing.

Called by :mod:`controller.decision.guardrails`; put into words by :mod:`controller.wording.verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abmesh.experiment.metrics import LATENCY_MEAN, Metric
from controller.decision.comparison import Comparison, Values
from controller.decision.look_back import LookBack
from controller.decision.verdicts import Judgement, Trend, Verdict

FARTHEST = 1e4
"""Multiple of the current stage's evidence beyond which no estimate is given."""

LONGEST = 20.0
"""Multiple of the current stage's requests beyond which, where most of them would tell nothing new, none is given."""

SOONER = 0.7
"""Of the evidence that is missing if values stay exactly as they are, how much is there when half of them have decided.

Evidence wanders, and the first look at which it is enough decides. Where the logarithm of an e-value grows by ``mu`` a
request on average, its variance grows by ``2 mu``, so the request at which it first gains another ``a`` has the inverse
Gaussian distribution with mean ``a / mu`` and shape ``a^2 / (2 mu)``; its median is 0.76 of the mean for ``a = 3``,
which is what 5% takes from nothing, 0.68 for ``a = 2`` and 0.51 for ``a = 1``.
"""

PRIOR = 0.5
"""Part of what can grow of a design effect that does, as long as little is known."""

PRIOR_WEIGHT = 0.1
"""Weight of that, where a checkpoint of the stage's very beginning has 1."""

LEAST_REQUESTS = 100
"""Fewest requests of a checkpoint whose design effect is used."""

NOISE = 3.0
"""Standard errors by which a value has to change to be called rising or falling."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the present values lead to.

    Attributes:
        leads: HEALTHY or HARMFUL; None where :data:`FARTHEST` times the evidence would not decide, as at the limit.
        needed: about how many more requests of the candidate that takes; None where ``leads`` is, or where the same
            users return so often that more of their requests would hardly tell more.
    """

    leads: Verdict | None
    needed: int | None


NOTHING_AHEAD = Forecast(None, None)
"""Of a verdict that is there."""

Decided = Callable[[Comparison], bool]
"""Whether a comparison decides."""


def forecast(found: Comparison, returning: float, *, healthy: Decided, harmful: Decided) -> Forecast:
    """What the present values lead to, and when.

    Args:
        found: the comparison now.
        returning: the part of its design effect that grows with the stage, 0..1.
        healthy: whether a comparison of more evidence would prove health.
        harmful: whether it would prove harm.
    """
    times = evidence_needed(found, lambda grown: healthy(grown) or harmful(grown))
    if times is None:
        return NOTHING_AHEAD
    leads = Verdict.HEALTHY if healthy(found.grown(times)) else Verdict.HARMFUL
    requests = requests_for(1 + SOONER * (times - 1), returning)
    needed = None if requests is None else max(1, math.ceil((requests - 1) * found.values.latest_n))
    return Forecast(leads, needed)


def returning_users(found: Comparison, metric: Metric, values: Values, effects: Sequence[float | None]) -> float:
    """The part of a comparison's design effect that grows with the stage, because the same users return, 0..1.

    Args:
        found: the comparison now, with a row for each checkpoint.
        metric: that it is of.
        values: its numbers, as they are tested.
        effects: :func:`growing` at each of these checkpoints; None where it was not kept.
    """
    moments = [
        (values.latest_n - found.moment(row)[1], effect)
        for row, effect in enumerate(effects, start=1)
        if effect is not None
    ]
    return returning_part(moments, values.latest_n, growing(metric, values), known=knows_effect(metric))


def growing(metric: Metric, found: Values | Judgement) -> float:
    """The number that grows while the same users return: a design effect, or where that is not known, a variance."""
    return found.design_effect if knows_effect(metric) else found.variance


def knows_effect(metric: Metric) -> bool:
    """Whether a metric's variance is compared with that of independent requests."""
    return metric.share or metric.quantile is not None or metric == LATENCY_MEAN


def evidence_needed(found: Comparison, decided: Decided) -> float | None:
    """How many times the current stage's evidence decides, at least 1; None beyond :data:`FARTHEST`."""
    low, high = 1.0, 1.0
    while not decided(found.grown(high)):
        low, high = high, high * 2
        if high > FARTHEST:
            return None
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if decided(found.grown(middle)) else (middle, high)
    return high


def requests_for(evidence: float, returning: float) -> float | None:
    """How many times a stage's requests give so many times its evidence.

    Args:
        evidence: wanted, at least 1.
        returning: the part of the design effect that grows, 0..1.

    Returns:
        At least 1; None where there is no such number, or none worth waiting for: more than :data:`LONGEST` of which
        over half tell nothing new.
    """
    left = 1 - returning * evidence
    if left <= 0:
        return None
    requests = evidence * (1 - returning) / left
    return None if requests > max(LONGEST, 2 * evidence) else requests


def returning_part(moments: Sequence[tuple[float, float]], n: float, effect: float, *, known: bool) -> float:
    """The part of a design effect, or a variance, that grows with the requests, 0..1.

    Args:
        moments: requests of the current stage so far and the number then, at earlier moments.
        n: requests now.
        effect: the number now.
        known: whether it is a design effect, whose constant part is at least 1.
    """
    if not effect > 0 or not math.isfinite(effect) or not n > 0:
        return 0.0
    most = max(0.0, 1 - 1 / effect) if known else 1.0
    points = [(1 - then / n, 1 - was / effect) for then, was in moments if LEAST_REQUESTS <= then < n and was > 0]
    if not points:
        return 0.0
    squares = sum(before * before for before, _ in points)
    products = sum(before * less for before, less in points)
    prior = PRIOR * most if known else 0.0
    return min(max((products + PRIOR_WEIGHT * prior) / (squares + PRIOR_WEIGHT), 0.0), most)


def trend_of(found: Comparison, looked: LookBack, limit: float | None, returning: float) -> Trend:
    """Which way the candidate's value has moved in the current stage: its newer half against the older one.

    The variance of their difference is ``s2 (1 - w) (1/n_new + 1/n_old)``: what the users who return add to the
    variance per request s2, its part w, is the same in both halves and cancels.

    Args:
        found: the comparison now, with a row for each checkpoint.
        looked: the checkpoints.
        limit: the last value allowed.
        returning: w, from :func:`returning_users`.

    Returns:
        RISING or FALLING where the change is more than :data:`NOISE` standard errors; STEADY where a change that large
        would not reach the limit; UNKNOWN otherwise.
    """
    values = found.values
    if values.latest is None or not values.variance > 0 or not math.isfinite(values.variance):
        return Trend.UNKNOWN
    since = {row: found.moment(row)[1] for row in range(1, len(looked) + 1)}
    rows = [row for row, n in since.items() if 0.2 * values.latest_n <= n <= 0.8 * values.latest_n]
    if not rows or values.latest_n < 2 * LEAST_REQUESTS:
        return Trend.UNKNOWN
    row = min(rows, key=lambda item: abs(since[item] - values.latest_n / 2))
    new, old = found.moment(row)[0], found.earlier(row)
    if new is None or old is None:
        return Trend.UNKNOWN
    change = new - old
    noise = NOISE * math.sqrt(values.variance * (1 - returning) * (1 / since[row] + 1 / (values.latest_n - since[row])))
    if abs(change) > noise:
        return Trend.RISING if change > 0 else Trend.FALLING
    near = limit is None or abs(limit - values.latest) < noise
    return Trend.UNKNOWN if near else Trend.STEADY
