"""Means and ratios that may be looked at any number of times: rates of sticky users, mean latencies. Pure.

Called by the guardrails and by the analysis of finished experiments. What a user does today resembles what the user did
yesterday, so that the uncertainty of a rate comes from users, not from requests. Users fall into slices by a hash; the
sums per slice are independent, and their spread is what :func:`request_variance` measures.

The test is the normal-mixture sequential probability ratio test (Robbins 1970), which on an estimate with an estimated
variance is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, *Time-uniform central
limit theory and asymptotic confidence sequences* (arXiv 2103.06476 v7). Equations below are numbered as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, stdtr

from abmesh.inference.numbers import Floats, Interval, Side, Slices
from abmesh.inference.variance import arm_variance as arm_variance
from abmesh.inference.variance import design_effect as design_effect
from abmesh.inference.variance import freedom, pair_variance
from abmesh.inference.variance import rate as rate
from abmesh.inference.variance import request_variance as request_variance

_HUGE = 1e300
"""Stands for an infinite ratio, so that no product of finite numbers overflows."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """The candidate's rate minus the control's, combined over strata.

    Attributes:
        d: estimated difference on the metric's own scale, shape (...); 0 where there is nothing to compare.
        v: its squared standard error, same shape; infinite where there is nothing to compare.
        n: the candidate's requests in strata where both variants have any, same shape.
        weight: ``sum n_A n_B / (n_A + n_B)`` over strata, the amount of information; between half of ``n`` and ``n``
            as long as the candidate has at most half of the traffic. ``weight * v`` hardly changes from stage to stage.
        nu: degrees of freedom of ``v``, same shape, as :func:`log_e_mean` takes them.
    """

    d: Floats
    v: Floats
    n: Floats
    weight: Floats
    nu: Floats


def stratified(
    a: Sequence[Slices],
    b: Sequence[Slices],
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    pooled: bool = True,
    share: bool = False,
) -> Contrast:
    """Difference ``R_B - scale R_A - offset``, estimated stratum by stratum.

    ``S = sum h_s N_s d_s`` with ``h_s = rho_s (1 - rho_s)``, the weights that are best when the difference is the same
    in every stratum (Mantel and Haenszel's), and ``V = sum (h_s N_s)^2 V_s``; both divided by ``sum h_s N_s``, so that
    the result is on the metric's scale. With the observed share of requests,
    ``h_s N_s = n_A n_B / (n_A + n_B)``.
    Rates may drift from stratum to stratum, because no two strata are ever compared.

    The control is first brought to where the null hypothesis puts the candidate (``Y -> scale Y + offset N``), so that
    the pooled variance is the one under the null. Degrees of freedom add up as Satterthwaite's (1946).

    Args:
        a: the control's slices, one entry a stratum, each of shape (..., B).
        b: the candidate's, same.
        scale: 1 + relative margin.
        offset: absolute margin, in the metric's unit.
        pooled: one variance per request for both variants, which is right under the null and for small candidates;
            False takes each variant's own, right only for large ones.
        share: whether the metric is a share of requests; see :func:`request_variance`.
    """
    if not a or len(a) != len(b):
        raise ValueError(
            f"got {len(a)} strata of the control and {len(b)} of the candidate; both need the same, 1 or more"
        )
    top: Floats | float = 0.0
    squared: Floats | float = 0.0
    weights: Floats | float = 0.0
    requests: Floats | float = 0.0
    doubt: Floats | float = 0.0
    for control, candidate in zip(a, b, strict=True):
        moved = Slices(control.n, scale * control.y + offset * control.n)
        n_a, n_b = control.total_n, candidate.total_n
        both = (n_a > 0) & (n_b > 0)
        weight = np.where(both, n_a * n_b / np.where(both, n_a + n_b, 1.0), 0.0)
        v = pair_variance(moved, candidate, pooled=pooled, share=share)
        top = top + weight * (rate(candidate) - rate(moved))
        part = weight**2 * np.where(both, v, 0.0)
        squared = squared + part
        doubt = doubt + part**2 / freedom(moved, candidate, pooled=pooled)
        weights = weights + weight
        requests = requests + np.where(both, n_b, 0.0)
    total = np.asarray(weights)
    some = total > 0
    safe = np.where(some, total, 1.0)
    spread = np.asarray(doubt) > 0
    return Contrast(
        d=np.asarray(np.where(some, top / safe, 0.0)),
        v=np.asarray(np.where(some, squared / safe**2, np.inf)),
        n=np.asarray(requests),
        weight=total,
        nu=np.asarray(np.where(spread, np.square(squared) / np.where(spread, doubt, 1.0), np.inf)),
    )


def log_e_mean(
    d: Floats | float, v: Floats | float, tau2: Floats | float, *, side: Side, nu: Floats | float = math.inf
) -> Floats:
    """E-value against a difference of 0, from an estimate and its squared standard error; arguments broadcast.

    Two-sided, ``E = sqrt(v / (v + tau2)) exp(d^2 tau2 / (2 v (v + tau2)))``: the likelihood ratio of the estimate,
    averaged over true differences with the density N(0, tau2). One-sided, over the half of that density on the side of
    the alternative, which multiplies E by ``2 Phi(+-(d / sqrt(v)) sqrt(tau2 / (v + tau2)))``.

    With ``nu`` degrees of freedom the normal likelihood becomes Student's, with ``r = tau2 / v`` and ``t^2 = d^2 / v``:
    ``E = (1 + r)^(-1/2) [(1 + t^2/nu) / (1 + t^2/(nu (1 + r)))]^((nu + 1)/2)``, the scale-invariant mixture of Lai
    (1976) in Wang and Ramdas, *Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance*
    (arXiv 2210.08589). It asks for more where the variance comes from few slices.

    Args:
        d: estimated difference.
        v: its squared standard error; 0 and infinity both mean that nothing is known, and give 0.
        tau2: variance of the mixture, on the scale of ``d^2``; ``best_rho2(alpha, n_star) * n * v``.
        side: the null is ``== 0`` (TWO_SIDED), ``<= 0`` (GREATER) or ``>= 0`` (LESS).
        nu: degrees of freedom of ``v``, such as slices - 1; infinite if it is as good as known.

    Returns:
        Logarithm of the e-value, in the shape of the broadcast arguments.
    """
    estimate, squared, mixed, freedom = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (d, v, tau2, nu))
    )
    known = (squared > 0) & (squared < np.inf) & (mixed > 0)
    error = np.sqrt(np.where(known, squared, 1.0))
    with np.errstate(over="ignore"):
        r = np.minimum(np.where(known, mixed, 1.0) / error / error, _HUGE)
        t = np.clip(np.where(known, estimate, 0.0) / error, -1e150, 1e150)
    kept = r / (1 + r)
    normal = ~np.isfinite(freedom)
    df = np.where(normal, 1.0, freedom)
    gain = np.where(
        normal,
        0.5 * t**2 * kept,
        0.5 * (df + 1) * (np.log1p(t**2 / df) - np.log1p(t**2 / (df * (1 + r)))),
    )
    log_e = gain - 0.5 * np.log1p(r)
    if side is not Side.TWO_SIDED:
        towards = (t if side is Side.GREATER else -t) * np.sqrt(kept)
        student = towards * np.sqrt((df + 1) / (df + t**2 / (1 + r)))
        tail = np.where(normal, log_ndtr(towards), np.log(np.maximum(stdtr(df + 1, student), 1 / _HUGE)))
        log_e = log_e + math.log(2) + tail
    return np.asarray(np.where(known, log_e, 0.0))


def best_rho2(alpha: float, n_star: float) -> float:
    """The mixture's variance, in units of a request's, that decides soonest near ``n_star`` requests.

    ``rho^2 = (-2 ln alpha + ln(1 - 2 ln alpha)) / n_star``, equation 161. For a one-sided test at alpha, give 2 alpha.
    ``tau2`` of :func:`log_e_mean` is ``rho^2 * n * v``.
    """
    if not 0 < alpha < 1 or not n_star > 0:
        raise ValueError(f"alpha is {alpha} and n_star {n_star}; alpha must be between 0 and 1, n_star above 0")
    twice = -2 * math.log(alpha)
    return (twice + math.log1p(twice)) / n_star


def mixture_variance(alpha: float, n_star: float, n: Floats | float, v: Floats | float, *, side: Side) -> Floats:
    """``tau2`` for :func:`log_e_mean`: ``rho^2 n v``, with rho tuned for the side; 0 where ``v`` is infinite.

    Args:
        alpha: 0..1, that of the decision.
        n_star: requests at which a decision should be easiest, counted as ``n`` is.
        n: requests, or a contrast's weight.
        v: squared standard error of the estimate.
        side: a one-sided test is tuned at twice its alpha.
    """
    rho2 = best_rho2(_tuning(alpha, side), n_star)
    squared = np.asarray(v, dtype=np.float64)
    known = np.isfinite(squared)
    return np.asarray(np.where(known, rho2 * np.asarray(n) * np.where(known, squared, 0.0), 0.0))


def _tuning(alpha: float, side: Side) -> float:
    # Twice an alpha above one half would not be a probability; nobody decides at such an alpha.
    return alpha if side is Side.TWO_SIDED else min(2 * alpha, 0.999)


def half_width(
    v: Floats | float,
    n: Floats | float,
    n_star: float,
    alpha: float,
    *,
    side: Side = Side.TWO_SIDED,
    nu: Floats | float = math.inf,
) -> Floats:
    """How far a confidence sequence reaches from its estimate; arguments broadcast.

    ``se sqrt(2 (r+1)/r ln(sqrt(r+1)/alpha))`` with ``r = n rho^2`` (equation 9); one-sided
    ``se sqrt(2 (r+1)/r ln(1 + sqrt(r+1)/(2 alpha)))`` (equation 134). With ``nu`` degrees of freedom, the same
    inversion of Student's form in :func:`log_e_mean`; infinite where no estimate could ever be enough.

    Args:
        v: squared standard error of the estimate; 0 and infinity both mean that nothing is known, as for
            :func:`log_e_mean`, and give infinity.
        n: requests, 0 or more.
        n_star: requests at which the interval is narrowest for its alpha.
        alpha: 0..1.
        side: an interval with one limit only reaches less far.
        nu: degrees of freedom of ``v``.
    """
    rho2 = best_rho2(_tuning(alpha, side), n_star)
    squared, count, freedom = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (v, n, nu)))
    known = (squared > 0) & (squared < np.inf) & (count > 0)
    r = rho2 * np.where(known, count, 1.0)
    asked = 0.5 * np.log1p(r) - math.log(alpha)
    if side is not Side.TWO_SIDED:
        asked = np.log1p(np.exp(0.5 * np.log1p(r)) / (2 * alpha))
    normal = ~np.isfinite(freedom)
    df = np.where(normal, 1.0, freedom)
    factor = np.expm1(np.minimum(2 * asked / (df + 1), 600.0))
    room = 1 - (factor + 1) / (1 + r)
    student = np.where(room > 0, df * factor / np.where(room > 0, room, 1.0), np.inf)
    squares = np.where(normal, 2 * (r + 1) / r * asked, student)
    return np.asarray(np.where(known, np.sqrt(np.where(known, squared, 1.0) * squares), np.inf))


def mean_interval(
    d: float,
    v: float,
    n: float,
    n_star: float,
    alpha: float,
    *,
    side: Side = Side.TWO_SIDED,
    nu: float = math.inf,
) -> Interval:
    """Confidence sequence around an estimate; see :func:`half_width`. GREATER has a lower limit only, LESS an upper."""
    width = float(half_width(v, n, n_star, alpha, side=side, nu=nu))
    return Interval(
        -math.inf if side is Side.LESS else d - width,
        math.inf if side is Side.GREATER else d + width,
    )
