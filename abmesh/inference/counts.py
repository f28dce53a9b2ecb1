"""Exact inference for counts of events: errors, slow requests, anything that a request has or has not. Pure.

Called by the comparisons in :mod:`controller.decision`. All e-values are given as logarithms. An e-value at or above
``1/alpha`` rejects; because each is an e-process, it may be looked at after every request, and the rule still errs with
probability ``alpha`` at most.

The rate ratio
    Given that an event happens in stratum s, it falls on the candidate with probability

        theta_s(delta) = rho_s e^delta / (1 - rho_s + rho_s e^delta),

    where ``rho_s`` is the candidate's share of the requests and ``delta`` the logarithm of the rate ratio. The base
    rate drops out, however it drifts. After Lindon and Malek, *Anytime-Valid Inference for Multinomial Count Data*
    (NeurIPS 2022, arXiv 2011.03567, section 3); the mixture over shifts of delta instead of a Dirichlet one is ours,
    and lets strata with different shares have one parameter in common.

A share against a limit
    The same mixture over shifts of the log odds, for the binomial likelihood of one variant.

A difference of shares, or a ratio of shares that are not rare, takes bets: :mod:`abmesh.inference.difference`.

Counts may be fractions: where users repeat, divide them by their design effect first.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_expit, logit

from abmesh.inference.mixture import log_sum_exp, shifts
from abmesh.inference.numbers import Floats, Side


def log_e_ratio(
    s_a: Floats,
    s_b: Floats,
    share_b: Floats,
    delta0: Floats | float = 0.0,
    *,
    side: Side = Side.TWO_SIDED,
    tau: float = 0.35,
    far: float | None = None,
) -> Floats:
    """E-value against a log rate ratio of ``delta0``, over strata with different shares.

    ``E = sum_j w_j prod_s (theta_sj / theta_s)^S_Bs ((1-theta_sj) / (1-theta_s))^S_As``, with theta_s at ``delta0``,
    theta_sj at ``delta0 + d_j`` and the shifts ``d_j`` of :func:`~abmesh.inference.mixture.shifts`. With positive
    shifts only, each factor has expectation ``1 + (theta - theta_s)(theta_sj - theta_s) / (theta_s (1 - theta_s))``, at
    most 1 for every ratio at or below ``delta0``, even one that changes with each event: an e-process for the whole
    one-sided null.

    Args:
        s_a: events of the control in each stratum, shape (..., S).
        s_b: events of the candidate, same.
        share_b: the candidate's share of the requests, 0..1, same. A stratum at 0 or 1 is ignored.
        delta0: log rate ratio under the null, finite, shape (...).
        side: the null is ``== delta0`` (TWO_SIDED), ``<= delta0`` (GREATER) or ``>= delta0`` (LESS).
        tau: size of the log rate ratios that are looked for.
        far: size of far larger ones that are looked for too; see :func:`~abmesh.inference.mixture.shifts`.

    Returns:
        Logarithm of the e-value, shape (...).
    """
    share = np.asarray(share_b, dtype=np.float64)
    split = (share > 0) & (share < 1)
    a, b = np.where(split, s_a, 0.0), np.where(split, s_b, 0.0)
    start = logit(np.where(split, share, 0.5)) + np.asarray(delta0, dtype=np.float64)[..., None]
    return _mixed(a, b, start, shifts(side, tau, far))


def _mixed(no: Floats, yes: Floats, start: Floats, shifted: tuple[Floats, Floats]) -> Floats:
    """Mixture of Bernoulli likelihood ratios, each with all log odds shifted by one d_j, with logarithms of weights.

    ``yes`` and ``no`` are counts, ``start`` the log odds of "yes" under the null, all of shape (..., S).
    """
    points, log_weights = shifted
    gain = log_expit(start[..., None] + points) - log_expit(start)[..., None]
    # ln(1 - theta) = ln(theta) - log odds, so one logarithm serves both kinds of events.
    log_ratio = ((no + yes)[..., None] * gain).sum(axis=-2) - no.sum(axis=-1)[..., None] * points
    return log_sum_exp(log_weights + log_ratio)


def log_e_share(
    s: Floats | float, n: Floats | float, limit: Floats | float, *, side: Side, tau: float = 0.75
) -> Floats:
    """E-value against a limit of one variant's share of events.

    ``E = sum_j w_j (theta_j/p)^s ((1-theta_j)/(1-p))^(n-s)`` with ``logit(theta_j) = logit(p) + d_j`` and the limit p.
    By the argument of :func:`log_e_ratio` it holds for every share on the null's side of the limit.

    Args:
        s: events, any shape.
        n: requests, at least ``s``; broadcasts.
        limit: share in 0..1; broadcasts. Against a limit of 0, one event is proof that the share is greater: the result
            is infinite. No share is greater than 1, nor less than 0: there the result is 0, and mirrored for 1.
        side: the null is ``share <= limit`` (GREATER), ``>= limit`` (LESS) or ``== limit`` (TWO_SIDED).
        tau: size of the shifts of the log odds that are looked for.

    Returns:
        Logarithm of the e-value, in the shape of the broadcast arguments.
    """
    yes, total, p = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (s, n, limit)))
    no = np.maximum(total - yes, 0.0)
    inner = (p > 0) & (p < 1)
    start = logit(np.where(inner, p, 0.5))
    log_e = _mixed(no[..., None], yes[..., None], start[..., None], shifts(side, tau))
    proof = np.zeros(p.shape, dtype=bool)
    if side is not Side.LESS:
        proof |= (p <= 0) & (yes > 0)
    if side is not Side.GREATER:
        proof |= (p >= 1) & (no > 0)
    return np.asarray(np.where(inner, log_e, np.where(proof, np.inf, 0.0)))
