"""Users send what the truth says, and it is counted as Envoy counts it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from abmesh.analysis.changed import with_weights
from abmesh.analysis.counted import Counted, bin_of
from abmesh.analysis.crowd import Crowd
from abmesh.analysis.truth import LATE, HeavyUser, Outage, Quantity, Segment, Truth, true_value
from abmesh.experiment.model import Experiment
from abmesh.inference.histogram import merge, quantile, size
from controller.decision.history import Evidence
from controller.evidence.strata import denominator, numerator, request_counts
from controller.evidence.summary import VariantEvidence
from tests.abmesh.analysis.test_truth import QUANTITIES
from tests.controller.support import experiment

TRUTH = Truth(users=5000, requests_per_second=100, error_rate=0.02, latency_ms=100)


def _seen(truth: Truth, seconds: float = 600, subject: Experiment | None = None, seed: int = 1) -> Evidence:
    """What one spell of requests comes to."""
    subject = subject or experiment(weight=50, rollout={"steps": [50, 75, 100]})
    counted = Counted(list(subject.weights), subject.slices, [segment.name for segment in truth.segments])
    Crowd(truth, np.random.default_rng(seed)).act(subject, "model-b", counted, seconds, seconds)
    return counted.evidence(subject.prices)


def _busiest(evidence: VariantEvidence) -> float:
    return float(request_counts(evidence, 50).max())


def test_every_quantity_has_its_true_value_on_both_variants() -> None:
    events = [{"name": "click", "value": {"min": 0, "max": 1000}}]
    subject = experiment(weight=50, rollout={"steps": [50, 75, 100]}, events=events)
    truth = replace(TRUTH, quantities=QUANTITIES)
    seen = _seen(truth, 1200, subject)
    prices: dict[bool, Any] = {False: subject.prices["model-a"], True: subject.prices["model-b"]}
    for name in [*(item.metric for item in QUANTITIES), "cost_per_success", "click_value_per_request"]:
        metric = subject.metrics[name]
        for variant, candidate in (("model-a", False), ("model-b", True)):
            found = numerator(seen[variant], metric) / denominator(seen[variant], metric)
            value = true_value(metric, truth, candidate=candidate, prices=prices)
            assert found == pytest.approx(value, rel=0.1), (name, variant)
    for evidence in seen.values():
        for amount, total in evidence.amounts.items():
            if amount != "cost":  # Rounded in each slice.
                assert total == sum(item.amount(amount) for item in evidence.slices.values())


def test_users_own_rates_vary_as_much_as_is_said() -> None:
    truth = replace(TRUTH, users=20_000)
    crowds = [Crowd(replace(truth, error_cv2=cv2), np.random.default_rng(1)) for cv2 in (2.0, 0.5)]
    for crowd, cv2 in zip(crowds, (2.0, 0.5), strict=True):
        rates = crowd._errors
        assert rates.mean() == pytest.approx(0.02, rel=0.05)
        assert rates.var() / rates.mean() ** 2 == pytest.approx(cv2, rel=0.15)
    crowd = Crowd(replace(truth, activity=1.2, busiest=200), np.random.default_rng(1))
    assert crowd._activity.max() / crowd._activity.min() == pytest.approx(200, rel=0.01)


def test_a_cached_answer_has_no_duration() -> None:
    seen = _seen(replace(TRUTH, quantities=(Quantity("cache_rate", 0.4),)))
    for evidence in seen.values():
        assert size(evidence.bins) == evidence.requests - evidence.amounts["cached"]


@pytest.mark.parametrize(("fast", "median"), [(True, 3.0), (False, 100.0)])
def test_an_outage_fails_for_everybody_fast_or_as_other_answers(fast: bool, median: float) -> None:
    seen = _seen(replace(TRUTH, error_rate=0.0, control=Outage(0.8, fast)))
    assert seen["model-a"].error_rate == pytest.approx(0.8, abs=0.01)
    assert seen["model-b"].errors == 0
    assert quantile(seen["model-a"].bins, 0.4) == pytest.approx(median, rel=0.25)
    assert quantile(seen["model-b"].bins, 0.5) == pytest.approx(100, rel=0.1)


def test_harm_may_begin_late() -> None:
    truth = replace(TRUTH, error_factor=20.0, latency_factor=3.0, candidate=Outage(0.3), harm_after=601)
    early, late = _seen(truth)["model-b"], _seen(replace(truth, harm_after=600))["model-b"]
    assert early.error_rate == pytest.approx(0.02, abs=0.01)
    assert (late.error_rate or 0) > 0.4
    assert (late.mean_ms or 0) > 2.5 * (early.mean_ms or 0)


def test_a_heavy_user_has_a_share_of_the_traffic_and_an_error_rate_whatever_the_variant() -> None:
    user = HeavyUser(0.3, error_rate=0.5)
    seen = _seen(replace(TRUTH, error_rate=0.0, error_factor=5, heavy=(user,)))
    busy = max(seen.values(), key=_busiest)
    total = sum(evidence.requests for evidence in seen.values())
    assert total == pytest.approx(60_000, rel=0.05)
    assert _busiest(busy) / total == pytest.approx(0.31, abs=0.02)
    assert busy.errors / (0.3 * total) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("joins", "weights"), [(1, [10, 50, 100]), (2, [50, 100]), (3, [100]), (LATE, [100])], ids=["1", "2", "3", "late"]
)
def test_a_heavy_user_joins_the_candidate_at_the_step_that_is_asked_for(joins: int, weights: list[int]) -> None:
    subject = experiment(weight=0, rollout={"steps": [10, 50, 100]})
    truth = replace(TRUTH, users=2000, heavy=(HeavyUser(0.5, joins=joins),))
    for seed in range(3):
        crowd = Crowd(truth, np.random.default_rng(seed))
        for weight in (0, 10, 50, 100):
            at = with_weights(subject, {"model-a": 10_000 - 100 * weight, "model-b": 100 * weight})
            counted = Counted(list(at.weights), at.slices)
            crowd.act(at, "model-b", counted, 60, 60)
            seen = counted.evidence({})
            assert (_busiest(seen["model-b"]) > 2000) is (weight in weights)


def test_a_user_who_never_joins_stays_where_no_step_gives_the_candidate_everybody() -> None:
    subject = experiment(weight=0, rollout={"steps": [50], "mode": "rollout"})
    truth = replace(TRUTH, users=2000, heavy=(HeavyUser(0.5, joins=LATE),))
    at = with_weights(subject, {"model-a": 5000, "model-b": 5000})
    assert all(_busiest(_seen(truth, 60, at, seed)["model-a"]) > 2000 for seed in range(5))


def test_segments_have_their_users_and_their_traffic() -> None:
    segments = (Segment("power", 50, 0.4), Segment("casual", 1000))
    seen = _seen(replace(TRUTH, segments=segments, heavy=(HeavyUser(0.2, segment="power"),)))
    total = sum(evidence.requests for evidence in seen.values())
    shares = {
        name: sum(evidence.segments[name].amount("answered") for evidence in seen.values()) / total
        for name in ("power", "casual", "other")
    }
    assert shares["power"] == pytest.approx(0.6, abs=0.02)
    assert shares["casual"] == pytest.approx(0.4 * 1000 / 4950, abs=0.02)
    for evidence in seen.values():
        assert sum(part.amount("answered") for part in evidence.segments.values()) == evidence.requests
        assert sum(part.amount("errors") for part in evidence.segments.values()) == evidence.errors
        assert merge(part.durations for part in evidence.segments.values()) == evidence.bins


def test_bins_are_envoys() -> None:
    assert bin_of(np.array([1.0, 9.9, 10.0, 99.0, 100.0, 129.0])).tolist() == [0, 89, 90, 179, 180, 182]
