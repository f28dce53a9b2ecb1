"""Exact inference for the difference of two shares of events, of any size, and for their ratio. Pure.

Called by :mod:`controller.decision.shares`: for a guardrail's ``max_increase`` in absolute terms, and for rates in a
table, whose events may be frequent.

The null is that in every stratum, and for every request, ``p_B - c p_A <= m``: with c = 1 it limits the difference,
with m = 0 the ratio. Neither base rate is known. A likelihood ratio would have to be small for every base rate at once,
which costs half of the power; a bet does not. Take a random request: it goes to the candidate with probability rho. Bet
on its event with the factors

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

from functools import lru_cache

import numpy as np

from abmesh.inference.mixture import log_sum_exp
from abmesh.inference.numbers import Floats, Side

_BASES = np.array([0.003, 0.08, 0.22, 0.42, 0.65, 0.85, 0.98])
"""Where a base rate lies in what the null leaves of 0..1."""

_LOG_BASE_WEIGHTS = np.log(np.array([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0]) / 18.0)
"""Events are mostly rare, and a weight that is not spent on other rates is evidence gained."""

_USUAL = 0.6
"""Scale of the excesses that are looked for."""

_INSIDE = 1 - 1e-9
"""Largest margin that leaves some room for base rates."""

_SMALLEST_SHARE = 1e-13
"""A stratum with a smaller share on one side is ignored: float64 could not hold what it adds."""

_LARGEST_BET = 0.95
"""Largest part of the stake that a single request may lose."""


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
        n_b: requests of the candidate, at least ``s_b``, same. A stratum in which either has no requests is
            ignored.
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
