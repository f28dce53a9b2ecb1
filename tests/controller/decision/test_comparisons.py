from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from abmesh.experiment import metrics
from abmesh.inference.numbers import Side
from controller.decision.comparison import MIN_SLICES, StratifiedSums, few_slices_effect, over_moments
from controller.decision.comparisons import compare
from controller.decision.look_back import Increment
from controller.decision.means import MeanComparison
from controller.decision.quantiles import QuantileComparison
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.shares import ShareComparison
from tests.controller.decision.support import arm, evidence_of, stage

MIX = {80: 40, 100: 40, 150: 15, 300: 5}
EDGES = {"latency_p95": (300.0,)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("error_rate", ShareComparison),
        ("latency_mean", MeanComparison),
        ("latency_p50", QuantileComparison),
        ("latency_p99", QuantileComparison),
    ],
)
def test_every_metric_has_its_method(name: str, kind: type[Any]) -> None:
    assert isinstance(compare(metrics.MEASURED[name], evidence_of(arm(100), arm(100)), 1000, 0.05), kind)


def _whole() -> RolloutEvidence:
    early = stage(arm(900, 9, ms=MIX), arm(100, 1, ms=MIX), weight=1000, edges=EDGES)
    before = {"model-a": arm(400, 4, ms=MIX), "model-b": arm(400, 40, ms=MIX)}
    since = Increment(math.log(0.1), timedelta(seconds=5), arm(100, 60, ms=MIX), arm(100, 1, ms=MIX), before)
    return evidence_of(arm(500, 5, ms=MIX), arm(500, 100, ms=MIX), past=[early], since=[since], edges=EDGES)


def test_sums_have_a_row_for_everything_and_one_for_each_moment_and_a_column_for_each_stage() -> None:
    sums = StratifiedSums.of(_whole(), metrics.ERROR_RATE)
    assert sums.n_b.tolist() == [[100, 500], [0, 100]]
    assert sums.y_b.tolist() == [[1, 100], [0, 60]]
    assert sums.n_a.tolist() == [[900, 500], [0, 100]]
    assert sums.y_a.tolist() == [[9, 5], [0, 1]]
    assert sums.grown(3).n_b.tolist() == [[100, 1500]]
    assert sums.moment(1) == (0.6, 100)
    values = sums.values(2.5)
    assert (values.n, values.control_n, values.design_effect) == (600, 1400, 2.5)
    assert (values.candidate, values.latest, values.latest_control) == (101 / 600, 0.2, 0.01)


@pytest.mark.parametrize("name", ["error_rate", "latency_mean", "latency_p95"])
def test_every_comparison_answers_for_everything_and_since_each_moment(name: str) -> None:
    found = compare(metrics.MEASURED[name], _whole(), 1000, 0.05)
    limit = 0.05 if name == "error_rate" else 200.0
    for log_e in (
        found.level(Side.GREATER, limit),
        found.increase(Side.LESS, 0.1, relative=True),
        found.increase(Side.GREATER, limit, relative=False),
    ):
        assert log_e.shape == (2,)
        assert np.isfinite(log_e).all()
    value, n = found.moment(1)
    assert n == 100
    assert value is not None
    grown = found.grown(2.0)
    assert grown.level(Side.GREATER, limit).shape == (1,)
    assert grown.values.n == pytest.approx(100 + 2 * 500)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("name", ["error_rate", "latency_mean", "latency_p95"])
def test_the_larger_a_margin_the_less_shows_that_it_is_exceeded_and_the_more_that_it_is_kept(
    name: str, relative: bool
) -> None:
    found = compare(metrics.MEASURED[name], _whole(), 1000, 0.05)
    margins = [0.01, 0.05, 0.2, 0.5] if relative or name == "error_rate" else [1.0, 5.0, 20.0, 100.0]
    above = [float(found.increase(Side.GREATER, by, relative=relative)[0]) for by in margins]
    below = [float(found.increase(Side.LESS, by, relative=relative)[0]) for by in margins]
    assert above == sorted(above, reverse=True)
    assert below == sorted(below)
    assert above[0] > above[-1]
    assert below[0] < below[-1]


@pytest.mark.parametrize(("slices", "n", "effect"), [(1, 1000, 1000), (9, 900, 100), (10, 900, 1), (0, 0, 1)])
def test_each_of_too_few_slices_counts_as_one_request(slices: int, n: float, effect: float) -> None:
    requests = np.array([n / max(slices, 1)] * slices + [0.0] * (50 - slices))
    assert few_slices_effect(requests, MIN_SLICES) == effect


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (arm(5000, ms=MIX), arm(2000, ms={800: 50, 900: 50}, slices=range(9))),
        (arm(5000, ms=MIX), arm(40, ms={800: 50, 900: 50})),
        (arm(5000, ms=900), arm(5000, ms=900)),
    ],
    ids=["nine slices", "forty requests", "no variance"],
)
def test_a_mean_of_few_users_or_few_requests_or_without_variance_proves_nothing(a: Any, b: Any) -> None:
    subject = compare(metrics.LATENCY_MEAN, evidence_of(a, b), 1000, 0.05)
    assert subject.level(Side.GREATER, 200.0)[0] == 0


def test_a_mean_of_many_proves() -> None:
    subject = compare(
        metrics.LATENCY_MEAN, evidence_of(arm(5010, ms=MIX), arm(5010, ms={800: 50, 900: 50})), 1000, 0.05
    )
    assert subject.level(Side.GREATER, 200.0)[0] > 20
    assert subject.increase(Side.GREATER, 1.0, relative=True)[0] > 20


def test_users_who_repeat_make_requests_worth_less() -> None:
    """Five of fifty slices have all the errors: the same shares, of many fewer independent requests."""
    bad = arm(500, 250, slices=range(5, 10))
    good = arm(4500, slices=[*range(5), *range(10, 50)])
    lumpy = replace(good, codes={200: 4750, 500: 250}, duration_ms=500_000, slices={**good.slices, **bad.slices})
    found = []
    for b in (arm(5000, 250), lumpy):
        subject = compare(metrics.ERROR_RATE, evidence_of(arm(5000, 250), b), 1000, 0.05)
        found.append((subject.values.design_effect, float(subject.level(Side.GREATER, 0.02)[0])))
    (even, proof), (uneven, less) = found
    assert even == 1
    assert uneven > 10
    assert less < proof / 3


def test_what_came_since_a_moment_has_no_smaller_design_effect_than_its_whole_stage() -> None:
    effects = np.array([[3.0, 5.0], [1.0, 2.0], [1.0, 9.0]])
    assert over_moments(effects).tolist() == [[3.0, 5.0], [1.0, 5.0], [1.0, 9.0]]
