"""Means and ratios that may be looked at any number of times: event rates, mean latencies. Pure.

Called by :mod:`controller.decision.means` and, for sample sizes, by :mod:`abmesh.inference.fixed`. The estimate and its
squared standard error come from :mod:`abmesh.inference.combined` and :mod:`abmesh.inference.variance`.

The test is the normal-mixture sequential probability ratio test (Robbins 1970), which on an estimate with an estimated
variance is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, *Time-uniform central
limit theory and asymptotic confidence sequences* (arXiv 2103.06476 v7). Equations below are numbered as there.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, stdtr

from abmesh.inference.numbers import Floats, Side

_HUGE = 1e300
"""Stands for an infinite ratio; no product of finite numbers overflows."""


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


def _tuning(alpha: float, side: Side) -> float:
    # Twice an alpha above one half would not be a probability; no decision uses such an alpha.
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
