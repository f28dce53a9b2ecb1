"""Exact inference for the difference of two shares of events, in absolute terms. Pure.

Called by the guardrails, for a ``max_increase`` in absolute terms, through :mod:`controller.inference.counts`.

The null says that in every stratum, and for every request, ``p_B - p_A <= m``. Neither base rate is known. A
likelihood ratio would have to be small for every base rate at once, which costs half of the power; a bet does not. Take
a request at random: it goes to the candidate with probability rho. Bet on its event through the factors

    B, event:    1 + (l / rho)(1 - b)             A, event:    1 - (l / (1-rho))(1 - a)
    B, none:     1 - (l / rho) b                  A, none:     1 + (l / (1-rho)) a            with b = a + m.

The expected factor is ``1 + l (p_B - p_A - m)``, at most 1 under the null *for every p_A*, even if it drifts with each
request. So the product over requests is an e-process, and so is a mixture over any ``a`` and ``l``. These factors are
likelihood ratios against the reverse information projection of the alternative on the null: Turner, Ly and Gruenwald,
*Generic E-variables for exact sequential k-sample tests* (arXiv 2106.02693), and Turner and Gruenwald, *Exact
anytime-valid confidence intervals for contingency tables and beyond* (arXiv 2203.09785). The growth is largest near
``l = e / v`` for a true excess ``e`` of the difference over m, with the variance
``v = a (1-a) / (1-rho) + b (1-b) / rho``; that ties strata of different shares to one excess. ``a`` enters the
expectation not at all, and the growth only in the second order: being wrong about it by h costs a part
``h^2 / (p (1-p))`` of the growth. A few base rates, mixed, are enough for all of 0..1.

rho is the observed share of the requests. Whatever it is, the product over all requests of a stratum with constant
rates has expectation 1 at most, by the inequality of the two means; that its small changes from look to look do no
harm is shown by simulation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from controller.inference.mixture import crossing, log_sum_exp
from controller.inference.numbers import Floats, Interval, Side

_BASES = np.array([0.003, 0.08, 0.22, 0.42, 0.65, 0.85, 0.98])
"""The lower one of the two base rates, as a part of what the margin leaves of 0..1."""

_LOG_BASE_WEIGHTS = np.log(np.array([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0]) / 18.0)
"""Events are mostly rare, and a weight that is not spent on other rates is evidence gained."""

_USUAL = 0.6
"""Scale of the excesses that are looked for."""

_SMALLEST_SHARE = 1e-13
"""A stratum with a smaller share on one side says nothing that float64 could hold."""

_LARGEST_BET = 0.95
"""Part of the stake that a single request may lose."""


@lru_cache(maxsize=1)
def _excesses() -> tuple[Floats, Floats]:
    """Excesses of the difference, in units of ``p(1-p)`` of the higher base rate, and their log weights.

    The weights are those of Student's t with 2 degrees of freedom, on a geometric grid as in
    :mod:`controller.inference.mixture`: heavy enough to find a canary that fails outright.
    """
    sizes = np.geomspace(1e-4, 20.0, 28)
    log_weights = np.log(sizes) - 1.5 * np.log1p((sizes / _USUAL) ** 2)
    return sizes, log_weights - log_sum_exp(log_weights)


def log_e_difference(
    s_a: Floats, n_a: Floats, s_b: Floats, n_b: Floats, margin: Floats | float, *, side: Side
) -> Floats:
    """E-value against a difference of shares, candidate minus control.

    Args:
        s_a: events of the control in each stratum, shape (..., S).
        n_a: requests of the control, at least ``s_a``, same.
        s_b: events of the candidate, same.
        n_b: requests of the candidate, at least ``s_b``, same. A stratum in which either has no requests says nothing.
        margin: the difference under the null, -1..1, shape (...). At 1 nothing is greater, at -1 nothing is less.
        side: the null is, in every stratum, ``p_B - p_A <= margin`` (GREATER) or ``>= margin`` (LESS).

    Returns:
        Logarithm of the e-value, shape (...).

    Raises:
        ValueError: the side is TWO_SIDED: test both sides, each at half of alpha.
    """
    if side is Side.TWO_SIDED:
        raise ValueError("a difference is tested on one side: GREATER or LESS; for both, test each at half of alpha")
    m = np.asarray(margin, dtype=np.float64)
    if side is Side.LESS:
        s_a, n_a, s_b, n_b, m = s_b, n_b, s_a, n_a, -m
    yes_a, all_a, yes_b, all_b = (np.asarray(x, dtype=np.float64) for x in (s_a, n_a, s_b, n_b))
    compared = np.minimum(all_a, all_b) > _SMALLEST_SHARE * np.maximum(all_a, all_b)
    yes_a, all_a, yes_b, all_b = (np.where(compared, x, 0.0) for x in (yes_a, all_a, yes_b, all_b))
    gap = np.minimum(np.abs(m), 1 - 1e-9)
    low, not_high = (1 - gap)[..., None] * _BASES, (1 - gap)[..., None] * (1 - _BASES)
    high, not_low = low + gap[..., None], not_high + gap[..., None]
    upward = (m >= 0)[..., None]
    a, not_a = np.where(upward, low, high), np.where(upward, not_low, not_high)
    b, not_b = np.where(upward, high, low), np.where(upward, not_high, not_low)
    # From here on: (..., strata, base rates), and then (..., strata, base rates, excesses).
    a, not_a, b, not_b = (x[..., None, :] for x in (a, not_a, b, not_b))
    rho = np.where(compared, all_b / np.maximum(all_a + all_b, 1e-300), 0.5)[..., None]
    variance = a * not_a / (1 - rho) + b * not_b / rho
    most = _LARGEST_BET * np.minimum((1 - rho) / not_a, rho / b)
    sizes, log_weights = _excesses()
    unit = (high * not_high)[..., None, :]
    bet = np.minimum((unit / variance)[..., None] * sizes, most[..., None])
    on_a, on_b = bet / (1 - rho)[..., None], bet / rho[..., None]
    log_e = yes_b[..., None, None] * np.log1p(on_b * not_b[..., None])
    log_e += np.maximum(all_b - yes_b, 0.0)[..., None, None] * np.log1p(-on_b * b[..., None])
    log_e += yes_a[..., None, None] * np.log1p(-on_a * not_a[..., None])
    log_e += np.maximum(all_a - yes_a, 0.0)[..., None, None] * np.log1p(on_a * a[..., None])
    total = log_e.sum(axis=-3) + log_weights + _LOG_BASE_WEIGHTS[:, None]
    flat = total.reshape(*total.shape[:-2], -1)
    possible = compared.any(axis=-1) & (m < 1)
    return np.asarray(np.where(possible, log_sum_exp(flat), 0.0))


def difference_interval(
    s_a: Floats, n_a: Floats, s_b: Floats, n_b: Floats, alpha: float, *, side: Side = Side.TWO_SIDED
) -> Interval:
    """Confidence sequence of the difference of shares, candidate minus control.

    Args:
        s_a: events of the control in each stratum, shape (S,).
        n_a: requests of the control, same.
        s_b: events of the candidate, same.
        n_b: requests of the candidate, same.
        alpha: 0..1; a two-sided interval has half of it on each side.
        side: GREATER gives a lower limit only, LESS an upper limit only.

    Returns:
        Differences, -1..1.
    """
    yes_a, all_a, yes_b, all_b = (np.asarray(x, dtype=np.float64) for x in (s_a, n_a, s_b, n_b))
    one_sided = alpha / 2 if side is Side.TWO_SIDED else alpha
    total_a, total_b = float(all_a.sum()), float(all_b.sum())
    if total_a <= 0 or total_b <= 0:
        return Interval(-1.0, 1.0)
    a, b = float(yes_a.sum()) / total_a, float(yes_b.sum()) / total_b
    step = 3 * float(np.sqrt(a * (1 - a) / total_a + b * (1 - b) / total_b)) + 3 / total_a + 3 / total_b

    def limit(which: Side, end: float) -> float:
        def log_e(value: float) -> float:
            return float(log_e_difference(yes_a, all_a, yes_b, all_b, value, side=which))

        # Strata whose shares differ may contradict the pooled difference; the opposite end is never rejected.
        start = b - a if log_e(b - a) < -np.log(one_sided) else -end
        found = crossing(log_e, start, step, end, one_sided)
        return end if found is None else found

    return Interval(
        -1.0 if side is Side.LESS else limit(Side.GREATER, -1.0),
        1.0 if side is Side.GREATER else limit(Side.LESS, 1.0),
    )
