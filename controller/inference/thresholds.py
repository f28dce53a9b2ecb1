"""Plain thresholds with a guard against small samples: is the candidate's value above its limit, and not by chance?

Error rates and latency quantiles reduce to the same question, *x of n above a share p*: an error rate above ``p``; or,
because a quantile ``q`` exceeds a limit ``L`` exactly if more than ``1 - q`` of the requests are slower than ``L``, a
share of slow requests above ``1 - q``. The verdict is

    HEALTHY       x/n <= p
    HARMFUL       x/n > p, n >= 30, and P(X >= x) < 0.001 for X ~ Binomial(n, p)
    INCONCLUSIVE  otherwise

with the exact tail P(X >= x) = I_p(x, n - x + 1), the regularized incomplete beta function (NIST Digital Library of
Mathematical Functions, 8.17.5, https://dlmf.nist.gov/8.17.E5).

A limit that hangs on the control is uncertain itself. HEALTHY compares with the control's estimate; HARMFUL with its
upper confidence limit, at the same 0.001: Clopper and Pearson's for a rate (Biometrika 26, 1934), the order statistic
whose rank a Binomial(n, q) exceeds as rarely for a quantile, and mean + z * standard error for a mean, whose variance
comes from the histogram's bins.

What this does not do: it takes requests as independent, and every tick as the only look.
Decision record 0007 says why that is the right first step. Pure; called by the steering.
"""

from __future__ import annotations

import math
from datetime import timedelta

from scipy.special import betainc, betaincinv, ndtri

from controller.evidence.histogram import exceeding, quantile, size
from controller.evidence.summary import VariantEvidence
from controller.inference.judgement import Judgement, Verdict
from experiment.metrics import Metric
from experiment.quantities import format_share
from experiment.rollout import Guardrail

SIGNIFICANCE = 0.001
"""How improbable a value must be at the limit to count as harm."""

_Z = float(ndtri(1 - SIGNIFICANCE))
"""The standard normal quantile that goes with it, 3.09."""

HARM_SAMPLE = 30
"""Fewest requests that harm is found in. Requests that arrive together fail or wait together, in a pause of a garbage
collector or on a cold connection, so that a handful of them say less than their number suggests."""

MIN_SAMPLE = 50
"""Fewest requests that a mean, or a control's value, is taken from."""


def judge(guardrail: Guardrail, candidate: VariantEvidence, control: VariantEvidence) -> Judgement:
    """Judge one guardrail on the evidence of a stage.

    Args:
        guardrail: a share or quantile with ``max``, or with ``max_increase`` over the control.
        candidate: evidence of the candidate.
        control: evidence of the control; only needed for ``max_increase``.
    """
    metric = guardrail.measured
    kind = "max" if guardrail.max is not None else "max_increase"
    value, n = _value(metric, candidate), _sample_size(metric, candidate)
    if value is None:
        return Judgement(metric.name, kind, Verdict.ERROR, f"{metric.name} of the candidate has no data yet")
    reference: float | None = None
    if guardrail.max_increase is not None:
        reference, control_n = _value(metric, control), _sample_size(metric, control)
        if reference is None:
            text = f"{metric.name} of the control has no data to compare with"
            return Judgement(metric.name, kind, Verdict.ERROR, text, value, None, None, n)
        if control_n < MIN_SAMPLE:
            text = f"{metric.name} of the control comes from {control_n} requests; a comparison needs {MIN_SAMPLE}"
            return Judgement(metric.name, kind, Verdict.INCONCLUSIVE, text, value, None, reference, n)
    limit = _limit(guardrail, control, reference)
    highest: float | None = limit
    if reference is not None:
        bound = _upper(metric, control)
        highest = None if bound is None else _limit(guardrail, control, bound)
    verdict = _verdict(metric, candidate, limit, highest, value, n)
    text = _sentence(metric, guardrail, verdict, value, limit, reference, n)
    return Judgement(metric.name, kind, verdict, text, value, limit, reference, n)


def tail(x: int, n: int, p: float) -> float:
    """P(X >= x) for X ~ Binomial(n, p), exactly, for any size of n.

    Args:
        x: 0 or more; above n it is impossible.
        n: 0 or more.
        p: 0..1.
    """
    if x <= 0:
        return 1.0
    if x > n:
        return 0.0
    return float(betainc(float(x), float(n - x + 1), p))


def _value(metric: Metric, evidence: VariantEvidence) -> float | None:
    if metric.quantile is not None:
        return quantile(evidence.bins, metric.quantile)
    return evidence.error_rate if metric.unit == "share" else evidence.mean_ms


def _sample_size(metric: Metric, evidence: VariantEvidence) -> int:
    if metric.quantile is not None:
        return size(evidence.bins)
    return evidence.requests if metric.unit == "share" else evidence.requests + evidence.aborted


def _limit(guardrail: Guardrail, control: VariantEvidence, reference: float | None) -> float:
    """The highest value allowed: a share in 0..1, or milliseconds."""
    if reference is None:
        assert guardrail.max is not None
        return _plain(guardrail.max)
    assert guardrail.max_increase is not None
    if not guardrail.relative:
        return reference + _plain(guardrail.max_increase)
    if guardrail.measured.unit == "share" and control.errors == 0:
        # A multiple of nothing would forbid the candidate's first error. A control without an error among its
        # requests counts as if it had had one.
        reference = 1 / control.requests
    return reference * (1 + _plain(guardrail.max_increase))


def _plain(limit: float | timedelta) -> float:
    return limit / timedelta(milliseconds=1) if isinstance(limit, timedelta) else limit


def _verdict(
    metric: Metric, candidate: VariantEvidence, limit: float, highest: float | None, value: float, n: int
) -> Verdict:
    """The verdict on a value, given its limit and the highest that the limit may really be; None if that is unknown."""
    if _within(metric, candidate, limit, value, n):
        return Verdict.HEALTHY
    harmful = highest is not None and n >= HARM_SAMPLE and _surely_above(metric, candidate, highest, value, n)
    return Verdict.HARMFUL if harmful else Verdict.INCONCLUSIVE


def _within(metric: Metric, candidate: VariantEvidence, limit: float, value: float, n: int) -> bool:
    if metric.quantile is not None:
        # Shares such as 1 - 0.95 are not exact in binary; a millionth of a millionth is not worth a verdict.
        return exceeding(candidate.bins, limit) <= n * (1 - metric.quantile) * (1 + 1e-12)
    if metric.unit == "share":
        return candidate.errors <= n * limit * (1 + 1e-12)
    return n >= MIN_SAMPLE and value <= limit


def _surely_above(metric: Metric, candidate: VariantEvidence, limit: float, value: float, n: int) -> bool:
    if metric.quantile is not None:
        # Interpolation inside a bin may give a fraction of a request; rounding down never invents harm.
        return tail(math.floor(exceeding(candidate.bins, limit)), n, 1 - metric.quantile) < SIGNIFICANCE
    if metric.unit == "share":
        return candidate.errors > n * limit and tail(candidate.errors, n, min(limit, 1.0)) < SIGNIFICANCE
    return n >= MIN_SAMPLE and value - _Z * _standard_error(candidate) > limit


def _upper(metric: Metric, control: VariantEvidence) -> float | None:
    """The highest that the control's value plausibly is; None if too few requests tell."""
    n = _sample_size(metric, control)
    if metric.quantile is not None:
        rank = _upper_rank(n, metric.quantile)
        return None if rank is None else quantile(control.bins, rank / n)
    if metric.unit == "share":
        errors = control.errors
        return 1.0 if errors == n else float(betaincinv(errors + 1.0, float(n - errors), 1 - SIGNIFICANCE))
    mean = control.mean_ms
    return None if mean is None else mean + _Z * _standard_error(control)


def _upper_rank(n: int, q: float) -> int | None:
    """The smallest rank of n ordered values that is at or above the quantile q but for once in a thousand times."""
    if tail(n, n, q) >= SIGNIFICANCE:
        return None
    low, high = 1, n
    while low < high:
        middle = (low + high) // 2
        if tail(middle, n, q) < SIGNIFICANCE:
            high = middle
        else:
            low = middle + 1
    return low


def _standard_error(evidence: VariantEvidence) -> float:
    """Standard error of the mean duration in milliseconds, from the middles of the histogram's bins."""
    bins = evidence.bins
    n = size(bins)
    if n < 2:
        return math.inf
    middles = [(lower + width / 2, count) for (lower, width), count in bins.items()]
    mean = sum(middle * count for middle, count in middles) / n
    return math.sqrt(sum((middle - mean) ** 2 * count for middle, count in middles) / (n - 1) / n)


def _sentence(
    metric: Metric,
    guardrail: Guardrail,
    verdict: Verdict,
    value: float,
    limit: float,
    reference: float | None,
    n: int,
) -> str:
    show = format_share if metric.unit == "share" else format_milliseconds
    relation = {
        Verdict.HEALTHY: "is within",
        Verdict.HARMFUL: "is above",
        Verdict.INCONCLUSIVE: "is, on too few requests to tell, near or above",
        Verdict.ERROR: "cannot be compared with",
    }[verdict]
    text = f"{metric.name} {show(value)} over {n} requests {relation} its limit of {show(limit)}"
    if reference is None or guardrail.max_increase is None:
        return text
    increase = _plain(guardrail.max_increase)
    allowed = f"times {1 + increase:.4g}" if guardrail.relative else f"plus {show(increase)}"
    return f"{text} (control {show(reference)} {allowed})"


def format_milliseconds(value: float) -> str:
    """A duration as a person reads it: ``87.5 ms``, ``1240 ms``."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
