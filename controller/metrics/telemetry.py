"""The controller's own Prometheus metrics. The core hands it reports and knows nothing of Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from abmesh.experiment.names import BUCKETS
from controller.decision.verdicts import Judgement
from controller.decision.warmup import Target
from controller.metrics.variants import Exposition
from controller.records import Cause, Kind, Phase
from controller.rollout.tick import Outcome, Report
from controller.routes.publisher import Published
from controller.sources.base import Observation

_Shown = set[tuple[Gauge, tuple[str, ...]]]
"""Gauges with the labels that they have a value for."""

_WARMUP_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Seconds: from a small model's answer to the loading of a large one."""


class Telemetry:
    """Metrics of one controller, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._exposition = Exposition()
        registry.register(self._exposition)
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
        self._gauges = _Gauges(registry)
        self._last_rejected = ""
        self._shown: _Shown = set()

    def publishing(self, routes: Published) -> None:
        """Show how the file stands that Envoy takes its routes from; to be called once, where there is one."""
        self._registry.register(_Routes(routes))

    def leading(self, held: bool) -> None:
        """Whether this controller acts."""
        self._leader.set(held)

    def observed(self, observations: Sequence[Observation]) -> None:
        """Note which Envoys answered."""
        absent = sum(item.sample is None for item in observations)
        self._source_errors.inc(absent)
        self._sources.labels("answering").set(len(observations) - absent)
        self._sources.labels("absent").set(absent)

    def counted(self, report: Report, observations: Sequence[Observation], at: datetime) -> None:
        """Take in what the Envoys said, at the time when they were asked. Takes a while where they are many."""
        self._exposition.counted(report.experiments, observations, at)

    def reported(self, report: Report) -> None:
        """Note what a tick did."""
        if report.generation is not None:
            self._generation.set(report.generation)
        self._gauges.valid.set(not report.document_error)
        if report.document_error and report.document_error != self._last_rejected:
            self._rejected.inc()
        self._last_rejected = report.document_error
        for name in report.failures:
            self._failures.labels(name).inc()
        shown: _Shown = set()
        for outcome in report.outcomes:
            for kind in Kind:
                self._decisions.labels(outcome.experiment, kind)  # at 0, so that the first one is an increase
            self._decisions.labels(outcome.experiment, outcome.decision.kind).inc()
            shown |= self._gauges.outcome(outcome)
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


class _Routes(Collector):
    """The routes file, as it stands when it is asked for."""

    def __init__(self, routes: Published) -> None:
        self._routes = routes

    def collect(self) -> Iterator[Metric]:
        """The families, for one scrape."""
        routes = self._routes
        text = "Generation of the document that the routes file holds the routes of; absent before the first."
        generation = GaugeMetricFamily("abmesh_routes_generation", text)
        if routes.generation is not None:
            generation.add_metric((), routes.generation)
        yield generation
        text = "0 while the routes file is behind the newest valid document for want of a success, else 1."
        yield GaugeMetricFamily("abmesh_routes_published", text, not routes.error)
        yield CounterMetricFamily("abmesh_routes_writes", "How often the routes file was written.", routes.writes)
        text = "Envoys that do not serve the routes file's routes although they have had the time for it."
        yield GaugeMetricFamily("abmesh_routes_envoys_behind", text, len(routes.behind))
        text = "How often it could not be written, or the document not be watched."
        yield CounterMetricFamily("abmesh_routes_failures", text, routes.failures)


class _Gauges:
    """What a tick found of every rollout."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        limit = ("experiment", "metric", "limit")
        self.valid = gauge("abmesh_config_valid", "0 while the newest document is refused, else 1.")
        self.valid.set(1)  # so that a controller that stands by, and reads none, raises no alarm
        self._weight = gauge(
            "abmesh_controller_weight", "Share of the users that a variant has, 0 to 1.", "experiment", "variant"
        )
        self._phase = gauge(
            "abmesh_controller_phase", "1 for the phase that a rollout is in, 0 for the others.", "experiment", "phase"
        )
        self._stage = gauge(
            "abmesh_controller_stage_start_timestamp_seconds",
            "When the weights were last set, in Unix time.",
            "experiment",
        )
        self._rolled_back = gauge(
            "abmesh_controller_rolled_back_timestamp_seconds",
            "When the candidate was rolled back, in Unix time; only while it is.",
            "experiment",
        )
        self._warming = gauge(
            "abmesh_controller_warming",
            "1 while a candidate is warmed before it gets its first users, 0 if not.",
            "experiment",
        )
        self._guardrail = gauge(
            "abmesh_controller_guardrail",
            "The candidate's value of a guarded metric, in the metric's unit: milliseconds for latencies.",
            *limit,
        )
        self._p_harm = gauge(
            "abmesh_controller_guardrail_p_harm",
            "Always-valid p-value of 'the candidate keeps this limit'; harm is proven where it is small.",
            *limit,
        )
        self._budget = gauge(
            "abmesh_controller_guardrail_budget_used_ratio",
            "How much of the evidence that rolls back there is: log p_harm over log alpha, 0 for none, 1 for proof.",
            *limit,
        )
        self._sample_ratio = gauge(
            "abmesh_controller_sample_ratio_alarm",
            "1 if requests are surely not split as the weights say, 0 if not.",
            "experiment",
        )

    def outcome(self, outcome: Outcome) -> _Shown:
        """Show what a tick found of one rollout; which gauges do."""
        name, state = outcome.experiment, outcome.state
        shown: _Shown = set()

        def show(gauge: Gauge, value: float, *labels: str) -> None:
            gauge.labels(*labels).set(value)
            shown.add((gauge, labels))

        for variant, points in outcome.weights.items():
            show(self._weight, points / BUCKETS, name, variant)
        for phase in Phase:
            show(self._phase, phase is state.phase, name, phase)
        show(self._stage, state.stage.started_at.timestamp(), name)
        if state.phase is Phase.ROLLED_BACK and state.decision is not None:
            show(self._rolled_back, state.decision.at.timestamp(), name)
        show(self._warming, outcome.decision.cause is Cause.WARMING, name)
        for judgement in outcome.judgements:
            if judgement.value is not None:
                labels = (name, judgement.metric, judgement.kind)
                show(self._guardrail, judgement.value, *labels)
                show(self._p_harm, judgement.p_harm, *labels)
                show(self._budget, budget_used(judgement), *labels)
        if outcome.sample_ratio is not None:
            show(self._sample_ratio, outcome.sample_ratio.alarm, name)
        return shown


def budget_used(judgement: Judgement) -> float:
    """How much of a rollback's evidence there is, 0..1.

    Evidence multiplies, so it is measured by its logarithm: with alpha 0.01, a p of 0.1 is half of what it takes.
    """
    if judgement.p_harm >= 1 or not 0 < judgement.alpha_harm < 1:
        return 0.0
    if judgement.p_harm <= judgement.alpha_harm:
        return 1.0
    return math.log(judgement.p_harm) / math.log(judgement.alpha_harm)
