"""The controller's own Prometheus metrics. Only this package knows of Prometheus' client library.

:mod:`controller.loop` records what happens; :mod:`controller.http` serves :meth:`Telemetry.render`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from abmesh.experiment.names import BUCKETS
from controller.decision.checks import CheckVerdict
from controller.decision.verdicts import Judgement, OnHarm
from controller.decision.warmup import Target
from controller.metrics.collectors import FiltersMetrics, HttpMetrics, RenderingsMetrics, RoutesMetrics
from controller.metrics.variants import VariantMetrics
from controller.records import Cause, Kind, Phase
from controller.rollout.tick import Outcome, TickReport
from controller.routes.filters_status import FiltersStatus
from controller.routes.publisher import RoutesStatus
from controller.sources.base import Observation
from controller.sources.renderings import Renderings
from controller.state.lease import Leader

_Shown = set[tuple[Gauge, tuple[str, ...]]]
"""Gauges, each with the label values for which it has a value."""

_WARMUP_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Seconds: from a small model's answer to the time that a large one takes to load."""


class Telemetry:
    """One controller's metrics, in their own registry."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._variants = VariantMetrics()
        registry.register(self._variants)
        self._decisions = Counter(
            "abmesh_controller_decisions", "Decisions made.", ("experiment", "decision"), registry=registry
        )
        self._ticks = Counter("abmesh_controller_ticks", "Ticks run while leading.", registry=registry)
        self._tick_seconds = Histogram(
            "abmesh_controller_tick_seconds",
            "Duration of a tick, including the wait for Envoys' answers.",
            registry=registry,
        )
        self._failures = Counter(
            "abmesh_controller_failures",
            "Failures by experiment; an empty label means that a whole tick failed.",
            ("experiment",),
            registry=registry,
        )
        self._source_errors = Counter(
            "abmesh_controller_source_errors",
            "Failed reads of an Envoy's statistics: no answer, or one without statistics.",
            registry=registry,
        )
        self._sources = Gauge(
            "abmesh_controller_sources",
            "Envoys by whether they answered in the last tick.",
            ("state",),
            registry=registry,
        )
        self._leader = Gauge(
            "abmesh_controller_leader", "1 if this controller leads, 0 if it is on standby.", registry=registry
        )
        self._warmup_seconds = Histogram(
            "abmesh_controller_warmup_request_seconds",
            "Duration of warm-up requests, by result: succeeded means a 2xx response.",
            ("experiment", "model_version", "result"),
            buckets=_WARMUP_BUCKETS,
            registry=registry,
        )
        self._generation = Gauge("abmesh_config_generation", "Generation of the document in force.", registry=registry)
        self._rejected = Counter("abmesh_config_rejected", "Documents refused, each counted once.", registry=registry)
        self._last_tick = Gauge(
            "abmesh_controller_last_tick_timestamp_seconds",
            "Unix time at which the last tick ended.",
            registry=registry,
        )
        self._leader_tick = Gauge(
            "abmesh_controller_leader_last_tick_timestamp_seconds",
            "Unix time at which the leader's last tick ended, as this controller sees it on standby; else 0.",
            registry=registry,
        )
        self._gauges = _Gauges(registry)
        self._last_rejected = ""
        self._shown: _Shown = set()

    def add_routes(self, status: RoutesStatus) -> None:
        """Export the metrics of a routes file. Call this at most once."""
        self._registry.register(RoutesMetrics(status))

    def add_filters(self, status: FiltersStatus) -> None:
        """Export the metrics of EnvoyFilters. Call this at most once."""
        self._registry.register(FiltersMetrics(status))

    def add_http(self, refused: Mapping[str, int]) -> None:
        """Export how many connections the HTTP server refused, by cause. Call this at most once."""
        self._registry.register(HttpMetrics(refused))

    def add_renderings(self, renderings: Renderings) -> None:
        """Export which Envoys must be rendered again. Call this at most once."""
        self._registry.register(RenderingsMetrics(renderings))

    def set_leading(self, leading: bool) -> None:
        """Record whether this controller leads."""
        self._leader.set(leading)
        if leading:
            self._leader_tick.set(0)

    def record_leader(self, leader: Leader | None) -> None:
        """Record what is known of the controller that leads."""
        heartbeat = leader.heartbeat if leader else None
        self._leader_tick.set(heartbeat.at.timestamp() if heartbeat else 0)

    def record_observations(self, observations: Sequence[Observation]) -> None:
        """Record which Envoys answered."""
        absent = sum(item.absent for item in observations)
        self._source_errors.inc(absent)
        self._sources.labels("answering").set(sum(item.sample is not None for item in observations))
        self._sources.labels("absent").set(absent)

    def record_counts(self, report: TickReport, observations: Sequence[Observation], at: datetime) -> None:
        """Add what the Envoys had counted at a time. Slow with many Envoys: call it off the event loop."""
        self._variants.record(report.experiments, observations, at)

    def record_report(self, report: TickReport) -> None:
        """Record what a tick did."""
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
                self._decisions.labels(
                    outcome.experiment, kind
                )  # start at 0, so that the first one shows as an increase
            self._decisions.labels(outcome.experiment, outcome.decision.kind).inc()
            shown |= self._gauges.show(outcome)
        if not (report.document_error or report.failures or report.superseded):
            for gauge, labels in self._shown - shown:
                gauge.remove(*labels)
            self._shown = shown
        else:
            self._shown |= shown

    def record_warmup_request(self, target: Target, succeeded: bool, seconds: float) -> None:
        """Record a warm-up request that ended."""
        result = "succeeded" if succeeded else "failed"
        self._warmup_seconds.labels(target.experiment, target.candidate, result).observe(seconds)

    def record_tick(self, seconds: float, now: datetime) -> None:
        """Record a tick that ended."""
        self._ticks.inc()
        self._tick_seconds.observe(seconds)
        self._last_tick.set(now.timestamp())

    def record_failure(self) -> None:
        """Record a tick that failed as a whole."""
        self._failures.labels("").inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Gauges:
    """The gauges of each rollout."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        limit = ("experiment", "metric", "limit", "dry_run")
        self.valid = gauge("abmesh_config_valid", "0 while the newest document is refused, else 1.")
        self.valid.set(1)  # a standby controller reads no document, and must not raise an alert
        self._weight = gauge(
            "abmesh_controller_weight", "A variant's share of the users, 0..1.", "experiment", "variant"
        )
        self._phase = gauge(
            "abmesh_controller_phase", "1 for the phase that a rollout is in, 0 for the others.", "experiment", "phase"
        )
        self._stage = gauge(
            "abmesh_controller_stage_start_timestamp_seconds",
            "Unix time at which the current stage started.",
            "experiment",
        )
        self._rolled_back = gauge(
            "abmesh_controller_rolled_back_timestamp_seconds",
            "Unix time at which the candidate was rolled back; absent unless it is rolled back.",
            "experiment",
        )
        self._warming = gauge(
            "abmesh_controller_warming",
            "1 while the candidate is warmed up before its first users, else 0.",
            "experiment",
        )
        self._no_way_back = gauge(
            "abmesh_controller_no_way_back",
            "1 while a promoted candidate fails and the control does not answer a probe either, else 0.",
            "experiment",
        )
        self._control_broken = gauge(
            "abmesh_controller_control_broken",
            "1 while the control itself is significantly beyond a limit, so that nobody should go back to it, else 0.",
            "experiment",
        )
        check = ("experiment", "check")
        self._check_passed = gauge(
            "abmesh_controller_check_passed",
            "1 if a check's last answer passes, 0 if it fails or there is none; checks are outside of alpha.",
            *check,
        )
        self._check_value = gauge(
            "abmesh_controller_check_value", "The last number of a check that asks Prometheus.", *check
        )
        self._check_at = gauge(
            "abmesh_controller_check_timestamp_seconds", "Unix time at which a check was last asked.", *check
        )
        self._guardrail = gauge(
            "abmesh_controller_guardrail",
            "The candidate's value of a guardrail's metric, in the metric's unit; latencies in milliseconds.",
            *limit,
        )
        self._p_harm = gauge(
            "abmesh_controller_guardrail_p_harm",
            "Always-valid p-value of the hypothesis that the candidate keeps this limit; at most alpha proves harm.",
            *limit,
        )
        self._budget = gauge(
            "abmesh_controller_guardrail_budget_used_ratio",
            "Evidence of harm relative to what rolls back: log p_harm / log alpha, from 0 for none to 1 for proof.",
            *limit,
        )
        self._typical = gauge(
            "abmesh_controller_guardrail_typical_user",
            "What a typical user of the candidate meets, in the metric's unit; absent for quantiles.",
            *limit,
        )
        self._disagreement = gauge(
            "abmesh_controller_guardrail_disagreement",
            "1 if what a typical user meets and what all requests meet are significantly apart, or only one of them "
            "keeps the limit; else 0.",
            *limit,
        )
        self._sample_ratio = gauge(
            "abmesh_controller_sample_ratio_alarm",
            "1 if the split of requests differs significantly from the weights, else 0.",
            "experiment",
        )

    def show(self, outcome: Outcome) -> _Shown:
        """Set the gauges of one rollout from a tick's outcome; returns those that it set."""
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
        show(self._no_way_back, outcome.decision.cause is Cause.NO_WAY_BACK, name)
        show(self._control_broken, outcome.control_broken, name)
        for judgement in outcome.judgements:
            if judgement.value is not None:
                subject = judgement.metric if judgement.guardrail is None else judgement.guardrail.subject
                watches = "true" if judgement.on_harm is OnHarm.REPORT else "false"
                labels = (name, subject, _limit_label(judgement), watches)
                show(self._guardrail, judgement.value, *labels)
                show(self._p_harm, judgement.p_harm, *labels)
                show(self._budget, budget_used(judgement), *labels)
                if judgement.typical is not None:
                    show(self._typical, judgement.typical.value, *labels)
                    show(self._disagreement, judgement.typical.disagree, *labels)
        for check in outcome.check_judgements:
            show(self._check_passed, check.verdict is CheckVerdict.PASSED, name, check.name)
            if check.value is not None:
                show(self._check_value, check.value, name, check.name)
            if check.age is not None:
                show(self._check_at, outcome.decision.at.timestamp() - check.age, name, check.name)
        if outcome.sample_ratio is not None:
            show(self._sample_ratio, outcome.sample_ratio.alarm, name)
        return shown


def _limit_label(judgement: Judgement) -> str:
    """A metric may have the same limit per request and per user."""
    by_user = judgement.guardrail is not None and judgement.guardrail.per == "user"
    return f"{judgement.kind} per user" if by_user else judgement.kind


def budget_used(judgement: Judgement) -> float:
    """The evidence of harm relative to what rolls back, 0..1: log p_harm / log alpha.

    Evidence multiplies, so its logarithm is compared: with alpha 0.01, a p of 0.1 is half of what a rollback takes.
    """
    if judgement.p_harm >= 1 or not 0 < judgement.alpha_harm < 1:
        return 0.0
    if judgement.p_harm <= judgement.alpha_harm:
        return 1.0
    return math.log(judgement.p_harm) / math.log(judgement.alpha_harm)
