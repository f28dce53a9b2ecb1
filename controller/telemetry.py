"""The controller's own Prometheus metrics. The core hands it reports and knows nothing of Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from controller.model import Cause
from controller.report import Outcome, Report
from controller.sources.base import Observation
from controller.warming import Target
from experiment.names import BUCKETS

_WARMUP_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Seconds: from a small model's answer to the loading of a large one."""


class Telemetry:
    """Metrics of one controller, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._weight = Gauge(
            "abmesh_controller_weight",
            "Share of the users that a variant has, 0 to 1.",
            ("experiment", "variant"),
            registry=registry,
        )
        self._decisions = Counter(
            "abmesh_controller_decisions", "Decisions made.", ("experiment", "decision"), registry=registry
        )
        self._ticks = Counter("abmesh_controller_ticks", "Ticks as leader.", registry=registry)
        self._tick_seconds = Histogram(
            "abmesh_controller_tick_seconds", "How long a tick took, waiting for Envoys included.", registry=registry
        )
        self._failures = Counter(
            "abmesh_controller_failures",
            "Experiments that a tick could not deal with, by experiment; all of them where it is empty.",
            ("experiment",),
            registry=registry,
        )
        self._source_errors = Counter(
            "abmesh_controller_source_errors", "Envoys that did not answer, or not with statistics.", registry=registry
        )
        self._sources = Gauge(
            "abmesh_controller_sources", "Envoys by whether they answered.", ("state",), registry=registry
        )
        self._leader = Gauge(
            "abmesh_controller_leader", "1 if this controller acts, 0 if it stands by.", registry=registry
        )
        self._guardrail = Gauge(
            "abmesh_controller_guardrail",
            "The candidate's value of a guarded metric: a ratio, or milliseconds for latencies.",
            ("experiment", "metric", "limit"),
            registry=registry,
        )
        self._p_harm = Gauge(
            "abmesh_controller_guardrail_p_harm",
            "Always-valid p-value of 'the candidate keeps this limit'; harm is proven where it is small.",
            ("experiment", "metric", "limit"),
            registry=registry,
        )
        self._sample_ratio = Gauge(
            "abmesh_controller_sample_ratio_alarm",
            "1 if requests are surely not split as the weights say, 0 if not.",
            ("experiment",),
            registry=registry,
        )
        self._warming = Gauge(
            "abmesh_controller_warming",
            "1 while a candidate is warmed before it gets its first users, 0 if not.",
            ("experiment",),
            registry=registry,
        )
        self._warmup_seconds = Histogram(
            "abmesh_controller_warmup_request_seconds",
            "How long warm-up requests took, by whether they were answered with 2xx.",
            ("experiment", "model_version", "result"),
            buckets=_WARMUP_BUCKETS,
            registry=registry,
        )
        self._generation = Gauge("abmesh_config_generation", "Generation of the document.", registry=registry)
        self._rejected = Counter("abmesh_config_rejected", "Documents that were refused, each once.", registry=registry)
        self._last_tick = Gauge(
            "abmesh_controller_last_tick_timestamp_seconds",
            "When the last tick ended, in Unix time.",
            registry=registry,
        )
        self._last_rejected = ""
        self._shown: set[tuple[Gauge, tuple[str, ...]]] = set()

    def leading(self, held: bool) -> None:
        """Whether this controller acts."""
        self._leader.set(held)

    def observed(self, observations: Sequence[Observation]) -> None:
        """Note which Envoys answered."""
        absent = sum(item.sample is None for item in observations)
        self._source_errors.inc(absent)
        self._sources.labels("answering").set(len(observations) - absent)
        self._sources.labels("absent").set(absent)

    def reported(self, report: Report) -> None:
        """Note what a tick did."""
        if report.generation is not None:
            self._generation.set(report.generation)
        if report.document_error and report.document_error != self._last_rejected:
            self._rejected.inc()
        self._last_rejected = report.document_error
        for name in report.failures:
            self._failures.labels(name).inc()
        shown: set[tuple[Gauge, tuple[str, ...]]] = set()
        for outcome in report.outcomes:
            shown |= self._outcome(outcome)
        if not (report.document_error or report.failures or report.superseded):
            for gauge, labels in self._shown - shown:
                gauge.remove(*labels)
            self._shown = shown
        else:
            self._shown |= shown

    def warmed(self, target: Target, succeeded: bool, seconds: float) -> None:
        """Note that a warm-up request ended."""
        result = "succeeded" if succeeded else "failed"
        self._warmup_seconds.labels(target.experiment, target.candidate, result).observe(seconds)

    def ticked(self, seconds: float, now: datetime) -> None:
        """Note that a tick ended."""
        self._ticks.inc()
        self._tick_seconds.observe(seconds)
        self._last_tick.set(now.timestamp())

    def failed(self) -> None:
        """Note that a tick failed as a whole."""
        self._failures.labels("").inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text form."""
        return generate_latest(self._registry)

    def _outcome(self, outcome: Outcome) -> set[tuple[Gauge, tuple[str, ...]]]:
        name = outcome.experiment
        self._decisions.labels(name, outcome.decision.kind).inc()
        shown: set[tuple[Gauge, tuple[str, ...]]] = set()

        def show(gauge: Gauge, value: float, *labels: str) -> None:
            gauge.labels(*labels).set(value)
            shown.add((gauge, labels))

        for variant, points in outcome.weights.items():
            show(self._weight, points / BUCKETS, name, variant)
        show(self._warming, outcome.decision.cause is Cause.WARMING, name)
        for judgement in outcome.judgements:
            if judgement.value is not None:
                show(self._guardrail, judgement.value, name, judgement.metric, judgement.kind)
                show(self._p_harm, judgement.p_harm, name, judgement.metric, judgement.kind)
        if outcome.balance is not None:
            show(self._sample_ratio, outcome.balance.alarm, name)
        return shown
