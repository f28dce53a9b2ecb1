"""The metrics that guardrails and goals can name, and what each is measured in. Pure.

A metric that a later version will measure is not in this list: a guardrail that nobody watches must be refused, not
silently ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["share", "duration"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measurable thing.

    Attributes:
        name: as the document names it.
        unit: what its limits are written in: ``share`` (0..1) or ``duration``.
        quantile: which quantile of the latency it is, in 0..1, or None if it is none.
    """

    name: str
    unit: Unit
    quantile: float | None = None


ERROR_RATE = Metric("error_rate", "share")
LATENCY_MEAN = Metric("latency_mean", "duration")

MEASURED: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        ERROR_RATE,
        LATENCY_MEAN,
        Metric("latency_p50", "duration", 0.50),
        Metric("latency_p90", "duration", 0.90),
        Metric("latency_p95", "duration", 0.95),
        Metric("latency_p99", "duration", 0.99),
    )
}
"""What the controller measures today, and so what a guardrail may name."""


def event_rate(event: str) -> str:
    """The name of the metric that counts an event per request: ``click`` becomes ``click_rate``."""
    return f"{event}_rate"


def goal_names(events: Sequence[str]) -> tuple[str, ...]:
    """The metrics that a goal may name in an experiment with these events."""
    return (*MEASURED, *(event_rate(event) for event in events))
