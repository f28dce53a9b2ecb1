"""Which test compares two shares, and that each has power where it is taken."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from abmesh.experiment.metrics import MEASURED
from abmesh.inference.means import log_e_mean
from abmesh.inference.numbers import Side
from controller.decision.comparison import StratifiedSums
from controller.decision.decide import EDGE_SAMPLE, Inputs, decide
from controller.decision.history import Evidence, History
from controller.decision.means import tuned_rho2
from controller.decision.shares import Method, ShareComparison, known_rate, method_for
from controller.evidence.coverage import Coverage
from controller.evidence.strata import Stratum
from controller.records import Phase, Stage, adopt
from tests.controller.decision.support import arm, evidence_of
from tests.controller.support import START, experiment


@pytest.mark.parametrize(
    ("rate", "planned", "method"),
    [
        (None, None, Method.RATIO),
        (None, 100_000, Method.RATIO),
        (0.005, None, Method.RATIO),
        (0.099, None, Method.RATIO),
        (0.1, None, Method.BETS),
        (0.9, None, Method.BETS),
        (0.005, 1_000, Method.RATIO),
        (0.005, 20_000, Method.DIFFERENCE),
        (0.5, 199, Method.BETS),
        (0.5, 200, Method.DIFFERENCE),
        (0.995, 19_999, Method.BETS),
        (0.995, 20_001, Method.DIFFERENCE),
    ],
)
def test_the_method_follows_from_the_rate_and_the_plan(
    rate: float | None, planned: float | None, method: Method
) -> None:
    assert method_for(rate, planned) is method


def test_the_rate_is_the_earliest_that_was_kept() -> None:
    metric = MEASURED["cache_rate"]
    past = [
        Stratum({}, {}, {}),
        Stratum({}, {}, {"cache_rate": (0.09,)}),
    ]
    assert known_rate(evidence_of(arm(10), arm(10), past=past, edges={"cache_rate": (0.11,)}), metric) == 0.09
    assert known_rate(evidence_of(arm(10), arm(10), edges={"cache_rate": (0.11,)}), metric) == 0.11
    assert known_rate(evidence_of(arm(10), arm(10)), metric) is None


@pytest.mark.parametrize("requests", [EDGE_SAMPLE - 50, EDGE_SAMPLE])
def test_the_controls_rate_is_kept_once_it_is_known_and_then_stays(requests: int) -> None:
    plan = experiment(rollout={"guardrails": [{"metric": "error_rate", "max_increase": "1%"}]})
    state = adopt(plan, Phase.PROGRESSING, "s", START).model_copy(
        update={"stage": Stage(id="s", weight=5000, started_at=START)}
    )

    def look(history: History, evidence: Evidence) -> History:
        return decide(Inputs(plan, state, history, Coverage(1), START, START, START, evidence)).history

    history = look(History(), {"model-a": arm(requests, requests // 10), "model-b": arm(100)})
    if requests < EDGE_SAMPLE:
        assert "error_rate" not in history.edges
        return
    assert history.edges["error_rate"] == (0.1,)
    assert look(history, {"model-a": arm(5_000, 50), "model-b": arm(500)}).edges["error_rate"] == (0.1,)


def _shares(method: Method, n: float, a: float, b: float, phi: float = 1.0) -> ShareComparison:
    sums = StratifiedSums(*(np.array([[value]]) for value in (a * n, n, b * n, n)))
    return ShareComparison(sums, np.array([phi]), np.array([phi]), method, tuned_rho2(n, 0.025), math.inf)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.52), (0.8, 0.82), (0.02, 0.024)])
def test_a_difference_worth_planning_for_is_found_by_the_difference(a: float, b: float) -> None:
    """At twice the size of a single look, where the test of rare events finds nothing of frequent ones."""
    n = 2 * 2 * (1.96 + 0.84) ** 2 * a * (1 - a) / (b - a) ** 2
    found = {method: float(_shares(method, n, a, b).increase(Side.GREATER, 0.0, relative=True)[0]) for method in Method}
    assert found[Method.DIFFERENCE] >= math.log(1 / 0.025)
    assert found[Method.DIFFERENCE] > found[Method.BETS]
    if a >= 0.5:
        assert found[Method.RATIO] < 2


@pytest.mark.parametrize("side", [Side.GREATER, Side.LESS])
@pytest.mark.parametrize(("by", "relative"), [(0.1, True), (0.05, False), (-0.05, False)])
def test_the_difference_knows_margins(side: Side, by: float, relative: bool) -> None:
    at = 0.5 * (1 + by) if relative else 0.5 + by
    beyond = 0.06 if side is Side.GREATER else -0.06
    here = float(_shares(Method.DIFFERENCE, 2_000, 0.5, at).increase(side, by, relative=relative)[0])
    there = float(_shares(Method.DIFFERENCE, 2_000, 0.5, at + beyond).increase(side, by, relative=relative)[0])
    assert here < 0
    assert there > 3
    deflated = _shares(Method.DIFFERENCE, 2_000, 0.5, at + beyond, phi=5.0).increase(side, by, relative=relative)
    assert float(deflated[0]) < there


def test_the_difference_waits_for_events_and_for_requests_without_one() -> None:
    for a, b in ((0.001, 0.02), (0.98, 0.999)):
        assert float(_shares(Method.DIFFERENCE, 500, a, b).increase(Side.GREATER, 0.0, relative=True)[0]) == 0


def _with(method: Method, *, y: tuple[float, float], n: float = 2_000, **changes: Any) -> ShareComparison:
    """The control's events and the candidate's, of so many requests of each."""
    sums = StratifiedSums(*(np.array([[value]]) for value in (y[0], n, y[1], n)))
    fields: dict[str, Any] = {
        "phi": np.array([1.0]),
        "own_phi": np.array([1.0]),
        "rho2": tuned_rho2(n, 0.05),
        **changes,
    }
    return ShareComparison(sums, method=method, **fields)


def test_a_limit_takes_the_candidates_own_design_effect_and_a_comparison_that_of_both() -> None:
    plain = _with(Method.RATIO, y=(20, 60))
    pooled, own = _with(Method.RATIO, y=(20, 60), phi=np.array([10.0])), replace(plain, own_phi=np.array([10.0]))
    assert pooled.level(Side.GREATER, 0.01) == plain.level(Side.GREATER, 0.01)
    assert own.level(Side.GREATER, 0.01) < 0.2 * plain.level(Side.GREATER, 0.01)
    assert own.increase(Side.GREATER, 0.0, relative=True) == plain.increase(Side.GREATER, 0.0, relative=True)
    assert pooled.increase(Side.GREATER, 0.0, relative=True) < 0.2 * plain.increase(Side.GREATER, 0.0, relative=True)


def test_without_a_margin_rare_events_are_compared_by_the_stronger_test_either_way() -> None:
    found = _with(Method.RATIO, y=(5, 25))
    assert found.increase(Side.GREATER, 0.0, relative=False) == found.increase(Side.GREATER, 0.0, relative=True)


@pytest.mark.parametrize(("events", "tested"), [(14, False), (16, True)])
def test_a_difference_is_tested_from_fifteen_events_and_requests_without_one(events: float, tested: bool) -> None:
    for y in ((events, 400), (2_000 - events, 1_600)):
        found = _with(Method.DIFFERENCE, y=y)
        assert bool(found.increase(Side.TWO_SIDED, 0.0, relative=False)[0]) is tested
    assert _with(Method.DIFFERENCE, y=(32, 400), phi=np.array([2.5])).increase(Side.GREATER, 0.0, relative=False) == 0


def test_a_difference_between_few_slices_proves_less() -> None:
    many, few = (_with(Method.DIFFERENCE, y=(400, 500), nu=nu) for nu in (np.inf, 9.0))
    assert 0 < few.increase(Side.GREATER, 0.0, relative=False) < 0.9 * many.increase(Side.GREATER, 0.0, relative=False)


def test_beyond_a_margin_each_variant_has_the_variance_of_its_own_share() -> None:
    """The control's is moved with it, and has ten times the requests."""
    sums = StratifiedSums(*(np.array([[value]]) for value in (1_000.0, 100_000.0, 200.0, 10_000.0)))
    found = ShareComparison(sums, np.array([1.0]), np.array([1.0]), Method.DIFFERENCE, tuned_rho2(10_000, 0.05))
    level = found.increase(Side.TWO_SIDED, 1.0, relative=True)[0]
    v = 4 * 0.01 * 0.99 / 100_000 + 0.02 * 0.98 / 10_000
    assert level == pytest.approx(float(log_e_mean(0.0, v, found.rho2 * 10_000 * v, side=Side.TWO_SIDED)))
    d = 0.005
    above = replace(found, sums=replace(sums, y_b=sums.y_b + d * 10_000))
    a = (1_000 + 250 / 2) / 110_000
    v = 4 * a * (1 - a) / 100_000 + 2 * a * (1 - 2 * a) / 10_000
    expected = log_e_mean(d, v, found.rho2 * 10_000 * v, side=Side.GREATER)
    assert above.increase(Side.GREATER, 1.0, relative=True)[0] == pytest.approx(float(expected))
