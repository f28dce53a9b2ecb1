"""A difference that may be looked at any number of times: the analysis that verdicts come from. Pure.

Which method depends on what was counted, and on nothing else; all of them compare stage by stage, because rates drift
while weights change, and combine the stages with Mantel and Haenszel's weights ``n_A n_B / (n_A + n_B)``.

rate    exact, from counts alone: :func:`~abmesh.inference.difference.log_e_difference`. The p-value and the
        intervals of difference and lift come from the same bets, so that they cannot contradict each other
ratio   of events: the same, with counts divided by their design effect, since users repeat
        of anything else: asymptotic, with the variance between groups of users
mean    asymptotic, with each variant's own variance

Called by :mod:`abmesh.analysis.report`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abmesh.analysis.records import Estimate, Finding, Metric, Sums
from abmesh.inference.combined import combine
from abmesh.inference.counts import share_interval
from abmesh.inference.difference import difference_interval, log_e_difference, share_ratio_interval
from abmesh.inference.means import log_e_mean, mean_interval, mixture_variance
from abmesh.inference.moments import Moments, lift
from abmesh.inference.numbers import Floats, Interval, Side, Slices, always_valid_p
from abmesh.inference.variance import arm_variance, design_effect, request_variance

VALID = "at any look"

Arms = Sequence[tuple[Sums, Sums]]
"""Control and candidate in each stage."""

UNKNOWN = Interval(-math.inf, math.inf)


def value_of(metric: Metric, parts: Sequence[tuple[Sums, Sums | None]], alpha: float, tuned_for: float) -> Estimate:
    """One variant's value with the interval that holds at any look, over all its requests.

    Args:
        metric: what.
        parts: in each stage, its sums and the control's, whose users help to tell how much users differ; None for the
            control itself.
        alpha: 0..1.
        tuned_for: requests at which a mean's interval is narrowest.
    """
    known = [(sums, control) for sums, control in parts if sums.n > 0]
    n, y = sum(sums.n for sums, _ in known), sum(sums.y for sums, _ in known)
    if not n:
        return Estimate(None, UNKNOWN)
    v = sum((sums.n / n) ** 2 * _variance(sums, control) for sums, control in known)
    if metric.counted:
        phi = _phi(v * n, y / n) if metric.kind == "ratio" else 1.0
        return Estimate(y / n, share_interval(y / phi, n / phi, alpha))
    nu = min(_freedom(sums, control) for sums, control in known)
    measured = sum(sums.measured for sums, _ in known)
    return Estimate(y / n, mean_interval(y / n, v, measured, tuned_for, alpha, nu=nu))


def compare(metric: Metric, arms: Arms, alpha: float, tuned_for: float) -> Finding:
    """The candidate against the control.

    Args:
        metric: what.
        arms: stages in which both have requests; there may be none.
        alpha: 0..1, two-sided.
        tuned_for: requests of both at which a mean's interval is narrowest.
    """
    if not arms:
        nothing = Estimate(None, UNKNOWN)
        return Finding(VALID, nothing, nothing, 1.0, 1.0, False, "nothing to compare")
    return _shares(metric, arms, alpha) if metric.counted else _means(metric, arms, alpha, tuned_for)


def _shares(metric: Metric, arms: Arms, alpha: float) -> Finding:
    """Counts of events, exactly."""
    phi = _design_effects(metric, arms)
    n_a, y_a, n_b, y_b = (array / phi for array in arrays(arms))
    standard = standardised(arms)
    ratio = share_ratio_interval(y_a, n_a, y_b, n_b, alpha)
    lifted = standard.b / standard.a - 1 if standard.a else None
    both = (log_e_difference(y_a, n_a, y_b, n_b, 0.0, side=side) for side in (Side.GREATER, Side.LESS))
    p = always_valid_p(float(max(both)) - math.log(2))
    method, note = "exact test of event counts", ""
    if metric.kind == "ratio":
        method += ", divided by their design effect, since users repeat"
        note = f"design effect {phi.max():.3g}"
    return Finding(
        VALID,
        Estimate(standard.b - standard.a, difference_interval(y_a, n_a, y_b, n_b, alpha)),
        Estimate(lifted, Interval(ratio.lower - 1, ratio.upper - 1)),
        p,
        p,
        p <= alpha,
        method,
        note,
    )


def _means(metric: Metric, arms: Arms, alpha: float, tuned_for: float) -> Finding:
    """Means, by the normal-mixture confidence sequence."""
    standard = standardised(arms)
    d, v = standard.b - standard.a, standard.v_a + standard.v_b
    n = float(sum(a.measured + b.measured for a, b in arms))
    nu = min(_freedom(a, b) for a, b in arms)
    tau2 = mixture_variance(alpha, tuned_for, n, v, side=Side.TWO_SIDED)
    p = always_valid_p(float(log_e_mean(d, v, tau2, side=Side.TWO_SIDED, nu=nu)))
    lifted, lifted_v = lift(standard.a, standard.v_a, standard.b, standard.v_b)
    # Below a control's mean of nothing, a share of it would turn its sign.
    relative = Estimate(lifted, mean_interval(lifted, lifted_v, n, tuned_for, alpha, nu=nu)) if standard.a > 0 else None
    how = "between groups of users" if metric.kind == "ratio" else "between requests"
    return Finding(
        VALID,
        Estimate(d, mean_interval(d, v, n, tuned_for, alpha, nu=nu)),
        relative,
        p,
        p,
        p <= alpha,
        f"confidence sequence of the mean, variance {how}",
    )


@dataclass(frozen=True, slots=True)
class Standardised:
    """Both variants' values as they would be with the same mix of stages, and their squared standard errors."""

    a: float
    v_a: float
    b: float
    v_b: float


def standardised(arms: Arms) -> Standardised:
    """Values over all stages.

    ``R* = sum w_s R_s / sum w_s`` and ``V* = sum w_s^2 V_s / (sum w_s)^2`` with ``w_s = n_A n_B / (n_A + n_B)``.

    Args:
        arms: stages in which both have requests; at least one.
    """
    n_a, y_a, n_b, y_b = arrays(arms)
    weight = n_a * n_b / (n_a + n_b)
    weight = weight / weight.sum()
    pairs = np.array([_variances(a, b) for a, b in arms])
    v_a, v_b = (weight**2 * pairs.T).sum(axis=1)
    return Standardised(float((weight * y_a / n_a).sum()), float(v_a), float((weight * y_b / n_b).sum()), float(v_b))


def contrast(metric: Metric, arms: Arms) -> tuple[float, float]:
    """Difference of shares over all stages and its squared standard error if nothing differs.

    As a group-sequential goal has it: :func:`~abmesh.inference.combined.combine` with the variance per request
    ``phi p (1 - p)``, from each stage's pooled share p and its design effect phi.

    Args:
        metric: a share.
        arms: stages in which both have requests; at least one.
    """
    n_a, y_a, n_b, y_b = arrays(arms)
    pooled = (y_a + y_b) / (n_a + n_b)
    d, v = combine(n_a, y_a, n_b, y_b, _design_effects(metric, arms) * pooled * (1 - pooled))
    return float(d), float(v)


def _variances(a: Sums, b: Sums) -> tuple[float, float]:
    """Squared standard errors of both variants' values in a stage; with users, from the variance that they share."""
    return _variance(a, b), _variance(b, a)


def _variance(sums: Sums, other: Sums | None) -> float:
    """Squared standard error of a variant's value in a stage; a small variant's users alone could not tell it."""
    if sums.borrowed is not None:
        return sums.borrowed.variance / sums.n
    if sums.slices is not None:
        if other is None or other.slices is None or not other.n:
            return float(arm_variance(sums.slices))
        return float(request_variance(*_used(sums.slices, other.slices))) / sums.n
    if sums.yy is not None:
        return Moments(sums.n, sums.y, sums.yy).standard_error2
    return sums.y / sums.n * (1 - sums.y / sums.n) / sums.n


def _freedom(sums: Sums, other: Sums | None) -> float:
    """Degrees of freedom of that variance; endless where it comes from requests."""
    if sums.borrowed is not None:
        return sums.borrowed.freedom
    if sums.slices is None:
        return math.inf
    used = sums.slices.n > 0 if other is None or other.slices is None else (sums.slices.n > 0) | (other.slices.n > 0)
    return max(1.0, float(used.sum()) - 1)


def _design_effects(metric: Metric, arms: Arms) -> Floats:
    """Of each stage; 1 where users do not repeat."""
    return np.array([_design_effect(a, b) if metric.kind == "ratio" else 1.0 for a, b in arms])


def _design_effect(a: Sums, b: Sums) -> float:
    if a.borrowed is not None:
        return a.borrowed.design_effect
    assert a.slices is not None
    assert b.slices is not None
    return _phi(float(request_variance(*_used(a.slices, b.slices), share=True)), (a.y + b.y) / (a.n + b.n))


def _phi(s2: float, share: float) -> float:
    return float(design_effect(s2, share))


def _used(a: Slices, b: Slices) -> tuple[Slices, Slices]:
    """Groups that anybody is in: with few users most are empty, and say nothing about a spread."""
    used = (a.n > 0) | (b.n > 0)
    return Slices(a.n[used], a.y[used]), Slices(b.n[used], b.y[used])


def floats(values: Sequence[float]) -> Floats:
    """An array of numbers."""
    return np.array(values, dtype=np.float64)


def arrays(arms: Arms) -> tuple[Floats, Floats, Floats, Floats]:
    """``n_a, y_a, n_b, y_b`` of every stage."""
    rows = np.array([(a.n, a.y, b.n, b.y) for a, b in arms], dtype=np.float64)
    return rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
