"""Exact inference for the difference of two shares of events, of any size, and for their ratio. Pure.

Called by the guardrails, for a ``max_increase`` in absolute terms, through :mod:`abmesh.inference.counts`, and by
the analysis of finished experiments.

The null says that in every stratum, and for every request, ``p_B - c p_A <= m``: with c = 1 it limits the difference,
with m = 0 the ratio. Neither base rate is known. A likelihood ratio would have to be small for every base rate at once,
which costs half of the power; a bet does not. Take a request at random: it goes to the candidate with probability rho.
Bet on its event through the factors

    B, event:    1 + (l / rho)(1 - b)             A, event:    1 - (c l / (1-rho))(1 - a)
    B, none:     1 - (l / rho) b                  A, none:     1 + (c l / (1-rho)) a          with b = c a + m.

The expected factor is ``1 + l (p_B - c p_A - m)``, at most 1 under the null *for every p_A*, even if it drifts with
each request. So the product over requests is an e-process, and so is a mixture over any ``a`` and ``l``. With c = 1
these factors are likelihood ratios against the reverse information projection of the alternative on the null: Turner,
Ly and Gruenwald, *Generic E-variables for exact sequential k-sample tests* (arXiv 2106.02693), and Turner and
Gruenwald, *Exact anytime-valid confidence intervals for contingency tables and beyond* (arXiv 2203.09785). The growth
is largest near ``l = e / v`` for a true excess ``e`` of the difference over m, with the variance
``v = c^2 a (1-a) / (1-rho) + b (1-b) / rho``; that ties strata of different shares to one excess. ``a`` enters the
expectation not at all, and the growth only in the second order: being wrong about it by h costs a part
``h^2 / (p (1-p))`` of the growth. A few base rates, mixed, are enough for all of 0..1.

rho is the observed share of the requests. Whatever it is, the product over all requests of a stratum with constant
rates has expectation 1 at most, by the inequality of the two means; that its small changes from look to look do no
harm is shown by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from abmesh.inference.mixture import crossing, log_sum_exp
from abmesh.inference.numbers import Floats, Interval, Side

_BASES = np.array([0.003, 0.08, 0.22, 0.42, 0.65, 0.85, 0.98])
"""Where a base rate lies in what the null leaves of 0..1."""

_LOG_BASE_WEIGHTS = np.log(np.array([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0]) / 18.0)
"""Events are mostly rare, and a weight that is not spent on other rates is evidence gained."""

_USUAL = 0.6
"""Scale of the excesses that are looked for."""

_INSIDE = 1 - 1e-9
"""Largest margin that leaves some room for base rates."""

_SMALLEST_SHARE = 1e-13
"""A stratum with a smaller share on one side says nothing that float64 could hold."""

_FARTHEST = 80.0
"""Largest logarithm of a ratio that an interval is searched for."""

_LARGEST_BET = 0.95
"""Part of the stake that a single request may lose."""


@lru_cache(maxsize=1)
def _excesses() -> tuple[Floats, Floats]:
    """Excesses of the difference, in units of ``p(1-p)`` of the higher base rate, and their log weights.

    The weights are those of Student's t with 2 degrees of freedom, on a geometric grid as in
    :mod:`abmesh.inference.mixture`: heavy enough to find a canary that fails outright.
    """
    sizes = np.geomspace(1e-4, 20.0, 28)
    log_weights = np.log(sizes) - 1.5 * np.log1p((sizes / _USUAL) ** 2)
    return sizes, log_weights - log_sum_exp(log_weights)


def log_e_difference(
    s_a: Floats,
    n_a: Floats,
    s_b: Floats,
    n_b: Floats,
    margin: Floats | float,
    *,
    side: Side,
    scale: Floats | float = 1.0,
) -> Floats:
    """E-value against a difference of shares, candidate minus ``scale`` times the control.

    Args:
        s_a: events of the control in each stratum, shape (..., S).
        n_a: requests of the control, at least ``s_a``, same.
        s_b: events of the candidate, same.
        n_b: requests of the candidate, at least ``s_b``, same. A stratum in which either has no requests says nothing.
        margin: the difference under the null, -1..1, shape (...). At 1 nothing is greater, at -1 nothing is less.
        side: the null is, in every stratum, ``p_B - scale p_A <= margin`` (GREATER) or ``>= margin`` (LESS).
        scale: above 0, shape (...). With a margin of 0 it is the ratio of the shares under the null.

    Returns:
        Logarithm of the e-value, shape (...).

    Raises:
        ValueError: the side is TWO_SIDED: test both sides, each at half of alpha.
    """
    if side is Side.TWO_SIDED:
        raise ValueError("a difference is tested on one side: GREATER or LESS; for both, test each at half of alpha")
    m, c = np.broadcast_arrays(np.asarray(margin, dtype=np.float64), np.asarray(scale, dtype=np.float64))
    if side is Side.LESS:
        s_a, n_a, s_b, n_b, m, c = s_b, n_b, s_a, n_a, -m / c, 1 / c
    yes_a, all_a, yes_b, all_b = (np.asarray(x, dtype=np.float64) for x in (s_a, n_a, s_b, n_b))
    compared = np.minimum(all_a, all_b) > _SMALLEST_SHARE * np.maximum(all_a, all_b)
    yes_a, all_a, yes_b, all_b = (np.where(compared, x, 0.0) for x in (yes_a, all_a, yes_b, all_b))
    a, not_a, b, not_b = (x[..., None, :] for x in _bases(np.clip(m, -c * _INSIDE, _INSIDE), c))
    # From here on: (..., strata, base rates), and then (..., strata, base rates, excesses).
    rho = np.where(compared, all_b / np.maximum(all_a + all_b, 1e-300), 0.5)[..., None]
    times = c[..., None, None]
    variance = times**2 * a * not_a / (1 - rho) + b * not_b / rho
    most = _LARGEST_BET * np.minimum((1 - rho) / (times * not_a), rho / b)
    sizes, log_weights = _excesses()
    unit = np.where((m >= 0)[..., None, None], b * not_b, a * not_a)
    bet = np.minimum((unit / variance)[..., None] * sizes, most[..., None])
    on_a, on_b = times[..., None] * bet / (1 - rho)[..., None], bet / rho[..., None]
    log_e = yes_b[..., None, None] * np.log1p(on_b * not_b[..., None])
    log_e += np.maximum(all_b - yes_b, 0.0)[..., None, None] * np.log1p(-on_b * b[..., None])
    log_e += yes_a[..., None, None] * np.log1p(-on_a * not_a[..., None])
    log_e += np.maximum(all_a - yes_a, 0.0)[..., None, None] * np.log1p(on_a * a[..., None])
    total = log_e.sum(axis=-3) + log_weights + _LOG_BASE_WEIGHTS[:, None]
    flat = total.reshape(*total.shape[:-2], -1)
    possible = compared.any(axis=-1) & (m < 1)
    return np.asarray(np.where(possible, log_sum_exp(flat), 0.0))


def _bases(m: Floats, c: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """``a``, ``1 - a``, ``b`` and ``1 - b`` with ``b = c a + m``, all in 0..1, shape (..., base rates).

    Complements come from complements, because the difference of two numbers near 1 would be rounded away.
    """
    low_b, high_b = np.maximum(m, 0.0), np.minimum(c + m, 1.0)
    over_a, over_b = np.maximum(c + m - 1, 0.0) / c, np.maximum(1 - c - m, 0.0)
    low_a, room_a, room_b = np.maximum(-m / c, 0.0), (high_b - low_b) / c, high_b - low_b
    found = []
    for low, room, over in ((low_a, room_a, over_a), (low_b, room_b, over_b)):
        found += [low[..., None] + room[..., None] * _BASES, over[..., None] + room[..., None] * (1 - _BASES)]
    return found[0], found[1], found[2], found[3]


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

        found = _limit(log_e, b - a, step, end, one_sided)
        return end if found is None else found

    return Interval(
        -1.0 if side is Side.LESS else limit(Side.GREATER, -1.0),
        1.0 if side is Side.GREATER else limit(Side.LESS, 1.0),
    )


def share_ratio_interval(
    s_a: Floats, n_a: Floats, s_b: Floats, n_b: Floats, alpha: float, *, side: Side = Side.TWO_SIDED
) -> Interval:
    """Confidence sequence of the ratio of shares, candidate over control: the scales that bets do not reject.

    It leaves out 1 exactly if :func:`difference_interval` leaves out 0: both then reject the same bet.

    Args:
        s_a: events of the control in each stratum, shape (S,).
        n_a: requests of the control, same.
        s_b: events of the candidate, same.
        n_b: requests of the candidate, same.
        alpha: 0..1; a two-sided interval has half of it on each side.
        side: GREATER gives a lower limit only, LESS an upper limit only.

    Returns:
        Ratios, 0..inf.
    """
    yes_a, all_a, yes_b, all_b = (np.asarray(x, dtype=np.float64) for x in (s_a, n_a, s_b, n_b))
    one_sided = alpha / 2 if side is Side.TWO_SIDED else alpha
    both = (all_a > 0) & (all_b > 0)
    if not both.any():
        return Interval(0.0, np.inf)
    # Mantel and Haenszel's ratio; half an event more, so that none is not taken for never.
    total = np.where(both, all_a + all_b, 1.0)
    a = float((np.where(both, yes_a * all_b, 0.0) / total).sum())
    b = float((np.where(both, yes_b * all_a, 0.0) / total).sum())
    estimate = float(np.log((b + 0.5) / (a + 0.5)))
    step = 3 * float(np.sqrt(1 / (yes_a.sum() + 0.5) + 1 / (yes_b.sum() + 0.5)))

    def limit(which: Side, end: float) -> float:
        def log_e(value: float) -> float:
            return float(log_e_difference(yes_a, all_a, yes_b, all_b, 0.0, side=which, scale=np.exp(value)))

        found = _limit(log_e, estimate, step, end, one_sided)
        return float(np.exp(end if found is None else found))

    lower = 0.0 if side is Side.LESS else limit(Side.GREATER, -_FARTHEST)
    upper = np.inf if side is Side.GREATER else limit(Side.LESS, _FARTHEST)
    return Interval(lower if lower > np.exp(-_FARTHEST) else 0.0, upper if upper < np.exp(_FARTHEST) else np.inf)


def _limit(log_e: Callable[[float], float], estimate: float, step: float, end: float, alpha: float) -> float | None:
    """Where an e-value reaches ``1/alpha`` on the way to ``end``: on that side of 0 where its value at 0 puts it.

    A mixture over few base rates does not fall evenly, and strata may contradict each other. Whatever a search from the
    estimate would then find, an interval leaves out 0 exactly if the e-value rejects 0.
    """

    def inside(value: float) -> bool:
        return log_e(value) < -math.log(alpha)

    direction = math.copysign(1.0, end)
    if inside(0.0):
        return crossing(log_e, estimate if estimate * direction > 0 and inside(estimate) else 0.0, step, end, alpha)
    # What is farthest from the end is never rejected.
    return crossing(log_e, estimate if estimate * direction < 0 and inside(estimate) else -end, step, 0.0, alpha)
