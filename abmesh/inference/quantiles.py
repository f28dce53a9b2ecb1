"""Latency quantiles that may be looked at any number of times, from histograms. Pure.

Called by the guardrails and by the analysis of finished experiments. A candidate's quantile is higher than the
control's exactly if more of its requests are above the control's. So a quantile is tested by a count: at a few edges
chosen before the data, requests above each are counted in both variants, and the counts are compared as
:mod:`abmesh.inference.counts` compares errors. The e-values of the edges are averaged: an average of e-values is
one, however they depend on each other (Vovk and Wang, *E-values: Calibration, combination and applications*, Annals of
Statistics 49, 2021, section 3).

A slow user's requests are slow together. Both counts of an edge are therefore divided by what
:func:`~abmesh.inference.edges.edge_deflator` makes of that edge's own design effect, measured between groups of
slices of users. The design effect of the mean duration would be far larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from abmesh.inference.counts import log_e_ratio, log_e_share
from abmesh.inference.cumulative import Cumulative
from abmesh.inference.edges import edge_deflator, level_deflator
from abmesh.inference.edges import edge_design_effect as edge_design_effect
from abmesh.inference.edges import edges_around as edges_around
from abmesh.inference.edges import spread_edges as spread_edges
from abmesh.inference.mixture import crossing, log_sum_exp
from abmesh.inference.numbers import Floats, Interval, Side

TAU = 0.5
"""Size of the log ratios of exceedances that are looked for: a tail moves by more than the latency does. A candidate
that is 30% slower has more than twice as many requests above the control's p95."""

_FARTHEST = math.log(1e3)
"""Largest log ratio of two quantiles that an interval is searched for."""

_STEP = 0.02
"""How far from the estimate the search for a limit looks first, as a log ratio."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """One stratum's durations of both variants, by group of slices.

    Attributes:
        a: the control's groups.
        b: the candidate's.
        edges: in milliseconds, chosen from the control before the stratum began, shape (E,); the same number in all
            strata of a comparison, because edges are combined over strata by their order.
    """

    a: Cumulative
    b: Cumulative
    edges: Floats


def log_e_quantile(
    strata: Sequence[Latencies],
    *,
    side: Side,
    scale: float = 1.0,
    offset: float = 0.0,
    tau: float = TAU,
) -> float:
    """E-value against "the candidate's quantile is ``scale`` times the control's plus ``offset``".

    At each edge e, the control's requests above e are compared with the candidate's above ``scale * e + offset``: if
    durations were stretched and shifted so, both would be the same share.

    Args:
        strata: one a stage; those without requests of both variants say nothing.
        side: the null is that the candidate is no slower than that (GREATER), no faster (LESS), or the same.
        scale: 1 + relative margin, above 0.
        offset: absolute margin in milliseconds.
        tau: size of the log ratios of exceedances that are looked for.

    Returns:
        Logarithm of the e-value; 0 without strata.
    """
    return _evidence(strata)(scale, offset, side, tau) if strata else 0.0


def log_e_exceedances(
    above_a: Floats, n_a: Floats, above_b: Floats, n_b: Floats, *, side: Side, tau: float = TAU
) -> Floats:
    """E-value against "both variants have the same share of requests above each edge", averaged over edges.

    What :func:`log_e_quantile` does, for counts by stratum S, edge E and group G.

    Args:
        above_a: the control's requests above each edge, shape (..., S, E, G).
        n_a: the control's requests, shape (..., S, G).
        above_b: the candidate's above, shape (..., S, E, H).
        n_b: the candidate's, shape (..., S, H).
        side: the null is that the candidate's share is no larger (GREATER), no smaller (LESS), or the same.
        tau: size of the log ratios of exceedances that are looked for.

    Returns:
        Logarithm of the e-value, shape (...).
    """
    deflator = edge_deflator(above_a, n_a[..., None, :], above_b, n_b[..., None, :])
    total_a, total_b = n_a.sum(axis=-1), n_b.sum(axis=-1)
    total = total_a + total_b
    share = np.where(total > 0, total_b / np.where(total > 0, total, 1.0), 0.0)
    # Edges are alternatives of the same test, strata its parts: strata go last, where the product over them is taken.
    s_a, s_b = (np.swapaxes(above.sum(axis=-1) / deflator, -1, -2) for above in (above_a, above_b))
    values = log_e_ratio(s_a, s_b, np.broadcast_to(share[..., None, :], s_a.shape), side=side, tau=tau)
    return np.asarray(log_sum_exp(values) - math.log(values.shape[-1]))


def _evidence(strata: Sequence[Latencies]) -> Callable[[float, float, Side, float], float]:
    """The e-value as a function of the null, with what does not depend on it counted once."""
    n_a, n_b = _stacked([item.a.sizes for item in strata]), _stacked([item.b.sizes for item in strata])
    above_a = _stacked([item.a.exceeding(item.edges) for item in strata])

    def log_e(scale: float, offset: float, side: Side, tau: float) -> float:
        above_b = _stacked([item.b.exceeding(scale * item.edges + offset) for item in strata])
        return float(log_e_exceedances(above_a, n_a, above_b, n_b, side=side, tau=tau))

    return log_e


def _stacked(parts: Sequence[Floats]) -> Floats:
    """Strata as one array; those with fewer groups get empty ones."""
    most = max(part.shape[-1] for part in parts)
    return np.stack([np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, most - part.shape[-1])]) for part in parts])


def quantile_ratio_interval(
    strata: Sequence[Latencies], alpha: float, *, side: Side = Side.TWO_SIDED, tau: float = TAU
) -> Interval:
    """Confidence sequence of the candidate's quantile over the control's: the scales that are not rejected.

    Two-sided, each limit is that of a one-sided test at ``alpha / 2``.

    Args:
        strata: as for :func:`log_e_quantile`, with edges around the quantile.
        alpha: 0..1.
        side: GREATER gives a lower limit only, LESS an upper limit only, each at alpha.
        tau: as for :func:`log_e_quantile`.

    Returns:
        Ratios, 0..inf.
    """
    inside = _estimate(strata)
    if inside is None:
        return Interval(0.0, math.inf)
    evidence = _evidence(strata)
    each = alpha / 2 if side is Side.TWO_SIDED else alpha
    lower = upper = None
    if side is not Side.LESS:
        lower = crossing(
            lambda power: evidence(math.exp(power), 0.0, Side.GREATER, tau), inside, _STEP, -_FARTHEST, each
        )
    if side is not Side.GREATER:
        upper = crossing(lambda power: evidence(math.exp(power), 0.0, Side.LESS, tau), inside, _STEP, _FARTHEST, each)
    return Interval(0.0 if lower is None else math.exp(lower), math.inf if upper is None else math.exp(upper))


def _estimate(strata: Sequence[Latencies]) -> float | None:
    """Logarithm of the ratio of quantiles in the stratum that says most; None if none says anything."""
    best, most = None, 0.0
    for stratum in strata:
        n_a, n_b = float(stratum.a.sizes.sum()), float(stratum.b.sizes.sum())
        if n_a <= 0 or n_b <= 0 or n_a * n_b / (n_a + n_b) <= most:
            continue
        edge = float(stratum.edges[len(stratum.edges) // 2])
        value = stratum.b.quantile(1 - float(stratum.a.exceeding(np.asarray(edge)).sum()) / n_a)
        if value is not None:
            most = n_a * n_b / (n_a + n_b)
            best = math.log(value / edge) if value > 0 and edge > 0 else 0.0
    return None if best is None else min(max(best, -_FARTHEST), _FARTHEST)


def quantile_band(groups: Cumulative, quantile: float, alpha: float, *, side: Side = Side.TWO_SIDED) -> Interval:
    """Confidence sequence of one variant's quantile: the limits that a share ``1 - quantile`` of requests may be above.

    Both counts are divided by :func:`~abmesh.inference.edges.level_deflator` at the limit. Two-sided, each end is
    that of a one-sided test at ``alpha / 2``.

    Args:
        groups: durations in milliseconds by group of slices.
        quantile: 0..1, exclusive.
        alpha: 0..1.
        side: GREATER gives a lower limit only, LESS an upper limit only, each at alpha.

    Returns:
        Milliseconds, 0..inf.
    """
    value = groups.quantile(quantile)
    if value is None:
        return Interval(0.0, math.inf)
    n = float(groups.sizes.sum())
    end = float(groups.lower[-1] + groups.width[-1])

    def log_e(limit: float, towards: Side) -> float:
        above = groups.exceeding(np.asarray(limit))
        phi = float(level_deflator(above, groups.sizes, np.zeros(0), np.zeros(0)))
        return float(log_e_share(float(above.sum()) / phi, n / phi, 1 - quantile, side=towards))

    each = alpha / 2 if side is Side.TWO_SIDED else alpha
    step = float(np.median(groups.width)) or end / 100
    lower = upper = None
    if side is not Side.LESS and value > 0:
        lower = crossing(lambda limit: log_e(limit, Side.GREATER), value, step, 0.0, each)
    if side is not Side.GREATER and value < end:
        upper = crossing(lambda limit: log_e(limit, Side.LESS), value, step, end, each)
    return Interval(0.0 if lower is None else lower, math.inf if upper is None else upper)
