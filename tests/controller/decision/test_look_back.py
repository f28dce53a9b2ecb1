from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment import metrics
from abmesh.experiment.metrics import SERVED, SERVED_MS
from abmesh.inference.histogram import merge
from controller.decision.comparisons import compare
from controller.decision.decide import past_strata
from controller.decision.history import History, PastStage
from controller.decision.look_back import Increment, look_back, with_checkpoint
from controller.evidence.summary import VariantEvidence
from tests.controller.decision.support import NOTHING, arm, evidence_of, with_failures
from tests.controller.support import START

NAMES = ("model-b", "model-a")


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _run(seconds: list[float], history: History | None = None) -> History:
    history = history or History()
    for moment in seconds:
        present = {"model-a": arm(round(moment)), "model-b": arm(round(moment))}
        history = with_checkpoint(history, START, _at(moment), present, NAMES)
    return history


def test_the_first_checkpoint_is_the_stages_beginning_with_nothing_counted() -> None:
    history = _run([5])
    assert (history.checkpoints[0].number, history.checkpoints[0].at, history.checkpoints[0].evidence) == (1, START, {})
    assert [checkpoint.at for checkpoint in history.checkpoints] == [START, _at(5)]
    assert history.taken == 2


def test_a_checkpoint_holds_requests_and_errors_of_every_slice() -> None:
    kept = _run([500]).checkpoints[-1].evidence["model-b"]
    assert kept.codes[200] == 500
    assert {item.requests for item in kept.slices.values()} == {10}
    assert len(kept.slices) == 50
    assert (list(kept.groups), sum(kept.bins.values())) == ([0], 500), "no quantile is compared"


def test_a_checkpoint_holds_what_the_metrics_need_of_every_slice_and_group() -> None:
    present = {name: arm(500) for name in NAMES}
    latencies = [metrics.MEASURED[name] for name in ("latency_p95", "latency_mean")]
    kept = with_checkpoint(History(), START, _at(500), present, NAMES, latencies).checkpoints[-1].evidence["model-b"]
    assert kept.slices == present["model-b"].slices
    assert {group: dict(bins) for group, bins in kept.groups.items()} == present["model-b"].groups


def test_a_checkpoint_of_an_older_version_which_kept_no_slices_is_left_out() -> None:
    present = {name: arm(60) for name in NAMES}
    history = with_checkpoint(History(), START, _at(60), present, NAMES)
    old = {name: VariantEvidence(codes={200: 60}) for name in NAMES}
    history = replace(history, checkpoints=(*history.checkpoints[:1], replace(history.checkpoints[1], evidence=old)))
    later = {name: arm(100) for name in NAMES}
    assert [item.age for item in look_back(history.checkpoints, _at(90), later, *NAMES, {}).increments] == [
        timedelta(seconds=90)
    ]


def test_checkpoints_are_taken_as_a_stage_ages_and_at_most_sixteen_are_kept() -> None:
    history = _run([5.0 * tick for tick in range(1, 1500)])
    assert len(history.checkpoints) == 16
    assert history.checkpoints[0].at == START
    assert [checkpoint.at for checkpoint in history.checkpoints] == sorted(
        checkpoint.at for checkpoint in history.checkpoints
    )
    numbers = [checkpoint.number for checkpoint in history.checkpoints]
    assert numbers == sorted(set(numbers))
    assert history.taken >= numbers[-1]
    # Ages from half a minute to the whole stage, so that harm that began at any time is seen with little dilution.
    ages = sorted((_at(5.0 * 1499) - checkpoint.at).total_seconds() for checkpoint in history.checkpoints)
    assert ages[0] < 60
    assert all(later / max(earlier, 30) < 4 for earlier, later in itertools.pairwise(ages))


def test_no_checkpoint_is_taken_soon_after_another() -> None:
    history = _run([1000])
    assert _run([1001], history) == history
    assert _run([1000], history) == history


def test_a_clock_that_is_set_back_starts_checkpoints_afresh_but_keeps_their_number() -> None:
    history = _run([10, 100, 1000])
    back = _run([50], history)
    assert back.checkpoints[0].at == START
    assert back.checkpoints[0].number == history.taken + 1
    assert back.taken > history.taken


def test_an_increment_is_the_difference_since_a_checkpoint() -> None:
    present = {"model-a": arm(100, 2), "model-b": arm(100, 40)}
    history = with_checkpoint(History(), START, _at(60), present, NAMES)
    later = {"model-a": arm(150, 3, ms=200), "model-b": arm(180, 90)}
    start, middle = look_back(history.checkpoints, _at(70), later, *NAMES, {}).increments
    assert (start.candidate.requests, start.candidate.errors, start.age) == (180, 90, timedelta(seconds=70))
    assert (middle.candidate.requests, middle.candidate.errors, middle.age) == (80, 50, timedelta(seconds=10))
    assert (middle.control.requests, middle.control.errors) == (50, 1)
    assert middle.control.duration_ms == 150 * 200 - 100 * 100


def test_failed_answers_are_told_apart_since_a_checkpoint_too() -> None:
    """Of the latencies since then, only those of answers that did not fail are compared, as of all evidence."""
    before, after = with_failures(arm(100), 50, 5), with_failures(arm(300, ms=200), 250, 5)
    measured = [metrics.MEASURED["latency_p95"], metrics.MEASURED["latency_mean"]]
    then = {"model-a": arm(100), "model-b": before}
    history = with_checkpoint(History(), START, _at(60), then, NAMES, measured)
    present = {"model-a": arm(300), "model-b": after}
    found = look_back(history.checkpoints, _at(70), present, *NAMES, {})
    since = found.increments[-1]
    assert since.candidate.amount(SERVED) == 300 - 100
    assert since.candidate.amount(SERVED_MS) == 300 * 200 - 100 * 100
    assert merge(since.before["model-b"].histograms("duration").values()) == {(100.0, 10.0): 100}
    evidence = evidence_of(arm(300), after, since=found.increments)
    _, candidate = evidence.latencies.of("duration")
    assert candidate.sizes()[:, -1].sum(axis=-1).tolist() == [300, 300, 200]
    mean = compare(measured[1], evidence, 1000, 0.05)
    assert mean.moment(2)[0] == pytest.approx((300 * 200 - 100 * 100) / 200)
    assert mean.moment(2)[1] == 200


def test_a_checkpoint_of_this_very_moment_is_left_out() -> None:
    history = _run([60])
    found = look_back(history.checkpoints, _at(60), {"model-a": arm(60), "model-b": arm(60)}, *NAMES, {})
    assert len(found) == 1


def test_all_weights_together_are_at_most_one() -> None:
    history = History()
    total = 0.0
    seen: set[int] = set()
    for tick in range(1, 400):
        present = {"model-a": arm(tick), "model-b": arm(tick)}
        found = look_back(history.checkpoints, _at(tick), present, *NAMES, {})
        for checkpoint, since in zip(history.checkpoints, found.increments, strict=False):
            if checkpoint.number not in seen:
                seen.add(checkpoint.number)
                total += math.exp(since.log_weight)
        history = with_checkpoint(history, START, _at(tick), present, NAMES)
    assert len(seen) > 100
    assert 0.5 < total <= 1
    # The rest of the series, bounded by its integral.
    assert total + 1 / (2.11 * math.log(max(seen) + 1)) <= 1 + 1e-3


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=17), st.floats(0, 5))
@settings(deadline=None)
def test_half_of_the_weight_is_on_all_evidence_and_half_on_increments_even_without_any(
    values: list[float], lighter: float
) -> None:
    since = [Increment(-lighter - index, timedelta(1), NOTHING, NOTHING, {}) for index in range(len(values) - 1)]
    mixed, row = evidence_of(arm(1), arm(1), since=since).look_back.mixed(np.array(values))
    expected = math.exp(values[0]) / 2 + sum(
        math.exp(item.log_weight + value) / 2 for item, value in zip(since, values[1:], strict=True)
    )
    assert mixed == pytest.approx(math.log(expected), rel=1e-9, abs=1e-9)
    assert values[row] == max(values) or row == 0 or lighter >= 0
    assert 0 <= row < len(values)


def test_past_stages_become_strata() -> None:
    evidence = {"model-a": arm(10), "model-b": arm(20, 3)}
    weights = {"model-a": 9000, "model-b": 1000}
    past = PastStage(id="x", weights=weights, evidence=evidence, edges={"latency_p95": (100.0,)})
    (stratum,) = past_strata(History(past=(past,)), {})
    assert stratum.weights == weights
    assert stratum.variants["model-b"].errors == 3
    assert stratum.edges == {"latency_p95": (100.0,)}
