"""The metrics of each variant, as Prometheus parses them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from abmesh.experiment.latencies import BOUNDS_MS, bin_width, last_bin
from abmesh.experiment.model import Experiment
from controller.evidence.counts import BinKey, Counts
from controller.evidence.parse import Sample
from controller.metrics.variants import VariantMetrics
from controller.sources.base import Observation
from tests.controller.support import ENVOY, NAME, START, experiment

OTHER = "http://127.0.0.1:9902"


class Fleet:
    """Envoys that are read every five seconds, and the resulting metrics."""

    def __init__(self, *experiments: Experiment) -> None:
        self.experiments: tuple[Experiment, ...] | None = experiments or (experiment(),)
        self.metrics = VariantMetrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        self.seconds = 0.0
        self.started = {ENVOY: -3600.0, OTHER: -3600.0}

    def observe(self, counts: Mapping[str, Counts]) -> None:
        self.seconds += 5
        observations = [
            Observation(envoy, Sample({NAME: it}, self.seconds - self.started[envoy])) for envoy, it in counts.items()
        ]
        self.metrics.record(self.experiments, observations, START + timedelta(seconds=self.seconds))

    def absent(self, envoy: str) -> None:
        self.seconds += 5
        at = START + timedelta(seconds=self.seconds)
        self.metrics.record(self.experiments, [Observation(envoy, None, "no answer")], at)

    def show(self, name: str, **labels: str) -> float | None:
        found = None
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    found = (found or 0.0) + sample.value
        return found


def _counts(requests: int = 0, **amounts: int) -> Counts:
    """Of the candidate: so many requests of the first slice, and sums over them."""
    return Counts({("model-b", 0, 200): requests}, {("model-b", 0, amount): count for amount, count in amounts.items()})


def test_what_was_counted_before_the_controller_began_to_lead_is_not_shown() -> None:
    fleet = Fleet()
    fleet.observe({ENVOY: _counts(100)})
    assert fleet.show("llm_requests_total", experiment=NAME, model_version="model-b", status="200") == 0
    fleet.observe({ENVOY: _counts(103)})
    assert fleet.show("llm_requests_total", experiment=NAME, model_version="model-b", status="200") == 3


def test_counters_go_on_through_restarts_and_absences_of_envoys() -> None:
    fleet = Fleet()
    fleet.observe({ENVOY: _counts(100), OTHER: _counts(10)})
    fleet.observe({ENVOY: _counts(110), OTHER: _counts(20)})
    fleet.absent(OTHER)
    fleet.started[ENVOY] = fleet.seconds
    fleet.observe({ENVOY: _counts(2)})
    assert fleet.show("llm_requests_total") == 22
    fleet.observe({ENVOY: _counts(5), OTHER: _counts(40)})
    assert fleet.show("llm_requests_total", status="200") == 45


def test_an_envoy_that_comes_back_after_it_was_forgotten_is_not_counted_twice() -> None:
    fleet = Fleet()
    fleet.started[ENVOY] = 100.0  # after the controller, so that all of it counts when it is met
    fleet.observe({OTHER: _counts(0)})
    fleet.seconds = 200.0
    fleet.observe({ENVOY: _counts(10), OTHER: _counts(0)})
    assert fleet.show("llm_requests_total") == 10
    fleet.seconds += 25 * 3600
    fleet.observe({OTHER: _counts(0)})
    fleet.observe({OTHER: _counts(0), ENVOY: _counts(120)})
    assert fleet.show("llm_requests_total") == 10, "it may have counted them before it was forgotten"
    fleet.observe({OTHER: _counts(0), ENVOY: _counts(125)})
    assert fleet.show("llm_requests_total") == 15


def test_everything_declared_starts_at_zero() -> None:
    fleet = Fleet(experiment(segments={"header": "x-user-segment", "values": ["power"]}))
    fleet.observe({})
    for name, labels in (
        ("llm_requests_total", {"status": "200"}),
        ("llm_tokens_total", {"direction": "input"}),
        ("llm_tokens_total", {"direction": "output"}),
        ("llm_cost_dollars_total", {}),
        ("llm_events_total", {"event": "click"}),
        ("llm_request_duration_seconds_bucket", {"le": "+Inf"}),
        ("llm_failed_request_duration_seconds_count", {}),
        ("llm_time_to_first_token_seconds_count", {}),
        ("llm_requests_by_segment_total", {"segment": "power"}),
        ("llm_requests_by_segment_total", {"segment": "other"}),
        ("llm_request_duration_by_segment_seconds_bucket", {"segment": "power", "le": "0.1"}),
        ("llm_cost_by_segment_dollars_total", {"segment": "power"}),
    ):
        for variant in ("model-a", "model-b"):
            assert fleet.show(name, experiment=NAME, model_version=variant, **labels) == 0, (name, labels)


def test_an_experiment_without_a_rollout_has_metrics_too() -> None:
    plain = experiment().model_copy(update={"rollout": None})
    fleet = Fleet(plain)
    fleet.observe({ENVOY: _counts(1)})
    fleet.observe({ENVOY: _counts(2)})
    assert fleet.show("llm_requests_total") == 1


def test_an_experiment_that_leaves_the_document_vanishes_and_a_refused_document_changes_nothing() -> None:
    fleet = Fleet()
    fleet.observe({ENVOY: _counts(1)})
    fleet.experiments = None
    fleet.observe({ENVOY: _counts(3)})
    assert fleet.show("llm_requests_total") == 2
    fleet.experiments = ()
    fleet.observe({ENVOY: _counts(4)})
    assert fleet.show("llm_requests_total") is None


def test_amounts_are_shown_in_base_units() -> None:
    fleet = Fleet(experiment(events=[{"name": "purchase", "value": {"min": 0, "max": 100}}, "click"]))
    fleet.observe({ENVOY: _counts()})
    amounts = {"input_tokens": 1000, "output_tokens": 500, "usage": 7, "streamed_tokens": 400, "generation_ms": 2500}
    amounts |= {"broken": 1, "cached": 2, "refusals": 3, "sessions": 4}
    amounts |= {"events:purchase": 2, "event_value:purchase": 12_500, "valued_events:purchase": 1, "events:click": 5}
    fleet.observe({ENVOY: _counts(10, **amounts)})
    who = {"experiment": NAME, "model_version": "model-b"}
    for name, labels, value in (
        ("llm_tokens_total", {"direction": "input"}, 1000),
        ("llm_tokens_total", {"direction": "output"}, 500),
        ("llm_cost_dollars_total", {}, (1000 * 0.5 + 500 * 2.0) / 10**6),
        ("llm_requests_metered_total", {}, 7),
        ("llm_streamed_tokens_total", {}, 400),
        ("llm_generation_seconds_total", {}, 2.5),
        ("llm_requests_broken_total", {}, 1),
        ("llm_requests_cached_total", {}, 2),
        ("llm_refusals_total", {}, 3),
        ("llm_sessions_total", {}, 4),
        ("llm_events_total", {"event": "purchase"}, 2),
        ("llm_events_total", {"event": "click"}, 5),
        ("llm_event_value_total", {"event": "purchase"}, 12.5),
        ("llm_events_valued_total", {"event": "purchase"}, 1),
    ):
        assert fleet.show(name, **who, **labels) == pytest.approx(value), name
    assert fleet.show("llm_event_value_total", event="click") is None, "it carries no value"


def test_requests_whose_client_went_away_have_a_status_of_their_own() -> None:
    fleet = Fleet()
    fleet.observe({ENVOY: Counts()})
    fleet.observe({ENVOY: Counts({("model-b", 3, 0): 2, ("model-b", 4, 503): 1})})
    assert fleet.show("llm_requests_total", status="aborted") == 2
    assert fleet.show("llm_requests_total", status="503") == 1


def test_a_price_change_charges_no_token_twice() -> None:
    fleet = Fleet()
    fleet.observe({ENVOY: _counts()})
    fleet.observe({ENVOY: _counts(1, output_tokens=1_000_000)})
    assert fleet.show("llm_cost_dollars_total", model_version="model-b") == pytest.approx(2.0)

    def priced(price: dict[str, float] | None) -> Experiment:
        variants = [{"name": name, "cluster": name, "weight": 50, "control": name == "model-a"} for name in VARIANTS]
        return experiment(variants=[variant | ({"price": price} if price else {}) for variant in variants])

    shown = []
    tokens = 1
    for price in ({"input": 1.0, "output": 10.0}, {"input": 1.0, "output": 0.5}, None, {"input": 1.0, "output": 1.0}):
        fleet.experiments = (priced(price),)
        tokens += 1
        fleet.observe({ENVOY: _counts(1, output_tokens=tokens * 1_000_000)})
        shown.append(fleet.show("llm_cost_dollars_total", model_version="model-b"))
    # Tokens that were counted while there was no price cost nothing.
    assert shown == pytest.approx([12.0, 12.5, 12.5, 13.5])


VARIANTS = ("model-a", "model-b")


def _binned(histogram: str, bins: Mapping[tuple[float, float], int], place: int | str = 0, **amounts: int) -> Counts:
    keyed = {("model-b", histogram, place, *bounds): count for bounds, count in bins.items()}
    return Counts(None, {("model-b", 0, amount): count for amount, count in amounts.items()}, keyed)


def test_latencies_are_histograms_in_seconds_whose_buckets_hold_envoys_bins_as_a_whole() -> None:
    fleet = Fleet()
    fleet.observe({ENVOY: Counts()})
    bins = {(0.0, 0.0): 1, (99.0, 1.0): 2, (100.0, 10.0): 4, (110.0, 10.0): 8, (700_000.0, 10_000.0): 16}
    fleet.observe({ENVOY: _binned("duration", bins, duration_ms=12_345)})
    name = "llm_request_duration_seconds"
    shown = {
        le: fleet.show(f"{name}_bucket", model_version="model-b", le=le)
        for le in ("0.082", "0.1", "0.12", "600.0", "+Inf")
    }
    assert shown == {"0.082": 1, "0.1": 3, "0.12": 15, "600.0": 15, "+Inf": 31}
    assert fleet.show(f"{name}_count", model_version="model-b") == 31
    assert fleet.show(f"{name}_sum", model_version="model-b") == pytest.approx(12.345)


def test_segments_have_their_own_families_so_that_sums_count_no_user_twice() -> None:
    fleet = Fleet(experiment(segments={"header": "x-user-segment", "values": ["power", "casual"]}))
    fleet.observe({ENVOY: Counts()})
    segments: dict[tuple[str, str, int | str], int] = {
        ("model-b", "power.3", 200): 3,
        ("model-b", "power", 200): 2,
        ("model-b", "power", "output_tokens"): 1000,
        ("model-b", "power", "events:click"): 2,
    }
    bins: dict[BinKey, int] = {
        ("model-b", "ttft", "power.3", 40.0, 1.0): 3,
        ("model-b", "ttft", "power", 40.0, 1.0): 2,
    }
    counts = Counts({("model-b", 0, 200): 5}, None, bins, segments)
    fleet.observe({ENVOY: counts})
    assert fleet.show("llm_requests_total") == 5
    assert fleet.show("llm_requests_by_segment_total", segment="power", status="200") == 5
    assert fleet.show("llm_tokens_by_segment_total", segment="power", direction="output") == 1000
    assert fleet.show("llm_events_by_segment_total", segment="power", event="click") == 2
    assert fleet.show("llm_cost_by_segment_dollars_total", segment="power") == pytest.approx(0.002)
    name = "llm_time_to_first_token_by_segment_seconds"
    assert fleet.show(f"{name}_bucket", model_version="model-b", segment="power", le="0.047") == 5
    assert fleet.show(f"{name}_sum", model_version="model-b", segment="power") == pytest.approx(5 * 0.0405)


def test_bounds_of_buckets_are_bounds_of_envoys_bins() -> None:
    assert list(BOUNDS_MS) == sorted(set(BOUNDS_MS))
    for bound in BOUNDS_MS:
        begins = last_bin(bound)
        assert begins < bound
        assert begins + bin_width(begins) == pytest.approx(bound)


def test_the_last_bin_below_a_power_of_ten_is_a_narrow_one() -> None:
    assert [last_bin(bound) for bound in (1000, 120, 10)] == [990, 110, pytest.approx(9.9)]
