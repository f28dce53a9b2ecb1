"""Sample-ratio mismatch: did every variant get the share of the traffic that it should have? Pure.

Called once a tick by the alarm that holds a rollout, and by the reports.

The e-value is the Dirichlet-multinomial one of Lindon and Malek, *Anytime-Valid Inference for Multinomial Count Data*
(NeurIPS 2022, arXiv 2011.03567). It is exact for newly issued identities, which count once each. Requests of users
who return come in lots, so every count of requests is divided by the dispersion of the slices' totals first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, gammaln, logsumexp

from abmesh.inference.numbers import Floats, always_valid_p


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Whether the traffic was split as it should have been.

    Attributes:
        log_e: logarithm of the e-value against "as it should".
        p: always-valid p-value.
        alarm: whether the e-value has reached ``1/alpha``.
        alpha: the probability of an alarm, at any look, where the split is right.
        observed: each variant's share of all requests, 0..1; empty without any.
        expected: the share each should have had, over strata weighted by their requests.
        dispersion: how many requests count as one; at least 1.
    """

    log_e: float
    p: float
    alarm: bool
    alpha: float
    observed: tuple[float, ...]
    expected: tuple[float, ...]
    dispersion: float


def log_e_sample_ratio(counts: Floats, shares: Floats, k: float = 1000.0) -> Floats:
    """E-value against "counts fall as the shares say", for one stratum.

    ``ln E = ln B(k rho + n) - ln B(k rho) - sum_v n_v ln rho_v`` with the multivariate Beta function B, equation 6 of
    arXiv 2011.03567.

    Args:
        counts: identities, or deflated requests, of each variant; shape (..., V).
        shares: expected shares, which sum to 1; shape (V,) or (..., V). A variant with a share of 0 is left out.
        k: concentration of the prior around the shares; larger looks for smaller differences.

    Returns:
        Logarithm of the e-value, shape (...).
    """
    rho, n = np.broadcast_arrays(np.asarray(shares, dtype=np.float64), np.asarray(counts, dtype=np.float64))
    used = rho > 0
    n = np.where(used, n, 0.0)
    rho = np.where(used, rho, 1.0)
    prior = k * rho
    terms = np.where(used, gammaln(prior + n) - gammaln(prior) - n * np.log(rho), 0.0)
    concentration = np.where(used, prior, 0.0).sum(axis=-1)
    return np.asarray(terms.sum(axis=-1) - gammaln(concentration + n.sum(axis=-1)) + gammaln(concentration))


def dispersion(slice_counts: Sequence[Floats]) -> float:
    """Variance over mean of the slices' totals, pooled over variants; 1 for users of one request each.

    ``sum_v sum_b (x_vb - m_v)^2 / m_v / sum_v (B_v - 1)``, Pearson's statistic over its degrees of freedom. All
    variants share one value, since slices of a small variant alone hold too few users to tell.

    Args:
        slice_counts: for each variant, requests in each slice, shape (B,). A variant without any is left out.

    Returns:
        At least 1; 1 where it cannot be measured.
    """
    squares, freedom = 0.0, 0
    for counts in slice_counts:
        mean = float(counts.mean()) if counts.size else 0.0
        if mean > 0:
            squares += float(((counts - mean) ** 2).sum()) / mean
            freedom += counts.size - 1
    return max(1.0, squares / freedom) if freedom else 1.0


def sample_ratio(
    strata: Sequence[tuple[Sequence[Floats], Sequence[float]]], alpha: float = 0.01, k: float = 100.0
) -> SampleRatio:
    """Test the split of requests over the stages of a rollout.

    The mean of the stages' e-values, not their product: users come back in every stage, and so does what chance gave
    one variant too many of them. A new stage takes its part of the mean from the others, so it stays an e-process.

    Args:
        strata: for each stage, every variant's requests per slice, shape (B,), and the shares they should have.
        alpha: probability of a false alarm.
        k: concentration of the prior.
    """
    stages: list[float] = []
    requests, counted = 0.0, 0.0
    observed = expected = np.zeros(len(strata[0][1]) if strata else 0)
    for slices, shares in strata:
        counts = np.array([float(np.sum(arm)) for arm in slices])
        rho, total, lot = np.asarray(shares, dtype=np.float64), float(counts.sum()), dispersion(slices)
        if total > 0:
            stages.append(float(log_e_sample_ratio(counts / lot, rho, k)))
        observed, expected = observed + counts, expected + total * rho
        requests, counted = requests + total, counted + total / lot
    if requests > 0:
        seen = (tuple(map(float, observed / requests)), tuple(map(float, expected / requests)))
    else:
        seen = ((), ())
    log_e = float(logsumexp(stages)) - math.log(len(stages)) if stages else 0.0
    lots = requests / counted if counted > 0 else 1.0
    return SampleRatio(log_e, always_valid_p(log_e), log_e >= -math.log(alpha), alpha, *seen, lots)


def chi_square_p(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Pearson's chi-square p-value of a split, for one look at the end of an experiment.

    Args:
        counts: identities of each variant.
        shares: expected shares, which sum to 1; a variant with a share of 0 is left out.

    Returns:
        0..1; 1 without any counts.
    """
    n, rho = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    n, rho = n[rho > 0], rho[rho > 0]
    total = float(n.sum())
    if total <= 0 or n.size < 2:
        return 1.0
    statistic = float(((n - total * rho) ** 2 / (total * rho)).sum())
    return float(chdtrc(n.size - 1, statistic))
