"""What was found, as the plain JSON that the journal and ``--json`` show: numbers to six digits, no sentences. Pure.

Used by :mod:`controller.codec.entries` and by ``abmesh explain``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from abmesh.experiment import metrics
from abmesh.inference.histogram import quantile, size
from controller.decision.checks import CheckJudgement
from controller.decision.verdicts import GoalJudgement, Judgement, Paradox, SampleRatio, TypicalUser
from controller.evidence.summary import VariantEvidence

_LEFT_OUT = frozenset({"guardrail", "check"})
"""Fields that stand in the recorded experiment already."""


def outline(found: Judgement | GoalJudgement | SampleRatio | Paradox | CheckJudgement) -> dict[str, Any]:
    """A finding's numbers, by the names of its fields."""
    return {item.name: _plain(getattr(found, item.name)) for item in fields(found) if item.name not in _LEFT_OUT}


def evidence_outline(evidence: VariantEvidence) -> dict[str, int | float | None]:
    """One variant's numbers that people want to see beside a decision; times in milliseconds.

    The times are of all answers, failed ones as well. Comparisons of latencies leave those out.
    """
    bins = evidence.bins
    found: dict[str, int | float | None] = {
        "requests": evidence.requests,
        "errors": evidence.errors,
        "aborted": evidence.aborted,
        "error_rate": _rounded(evidence.error_rate),
        "mean_ms": _rounded(evidence.mean_ms),
        "p50_ms": _rounded(quantile(bins, 0.50)),
        "p95_ms": _rounded(quantile(bins, 0.95)),
        "p99_ms": _rounded(quantile(bins, 0.99)),
        "durations": size(bins),
    }
    if metrics.FAILED in evidence.amounts:
        found["failed"] = evidence.amount(metrics.FAILED)
    return found


def _plain(value: Any) -> Any:
    """A large number stands for a logarithm that is not finite, which JSON cannot hold."""
    if isinstance(value, float):
        return _rounded(value) if math.isfinite(value) else math.copysign(1e300, value)
    if isinstance(value, TypicalUser):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _rounded(value: float | None) -> float | None:
    """A measured value to six significant digits, which is more than it is worth."""
    return None if value is None else float(f"{value:.6g}")
