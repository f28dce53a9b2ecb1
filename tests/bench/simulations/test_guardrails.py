"""Guardrails as they run keep their promise with users who come back. `make simulations` has more runs."""

from __future__ import annotations

import numpy as np
import pytest

from abmesh.experiment import metrics
from abmesh.inference.edges import level_deflator
from abmesh.inference.numbers import Side
from bench.simulations import error_guardrails, latency_guardrails
from bench.simulations.durations import Binned
from bench.simulations.means import returning
from bench.simulations.users import Population, heavy_tailed
from controller.decision.decide import EDGE_SAMPLE
from controller.decision.quantiles import QuantileComparison
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.shares import ShareComparison
from controller.evidence.strata import Stratum
from controller.evidence.summary import SliceEvidence, VariantEvidence

QUESTIONS: tuple[error_guardrails.Question, ...] = (
    lambda found: found.level(Side.LESS, 0.06),
    lambda found: found.increase(Side.GREATER, 0.1, relative=True),
    lambda found: found.increase(Side.LESS, 0.01, relative=False),
)
WEIGHTS = {"a": 5_000, "b": 5_000}


@pytest.mark.parametrize(("rate", "share", "wanted"), [(0.05, 0.05, 0.9), (0.05, 0.5, None), (0.005, 0.05, None)])
def test_error_rates_of_users_who_come_back(rate: float, share: float, wanted: float | None) -> None:
    found = error_guardrails.sticky(300, (11,), rate, share, wanted)
    assert [o for o in found if not o.kept] == []


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_latencies_of_users_who_are_slow_throughout(share: float) -> None:
    found = latency_guardrails.sticky(100, (12,), share)
    assert [o for o in found if not o.kept] == []
    assert next(o.rate for o in found if o.rule.endswith("requests taken as independent")) > 0.15


def test_latencies_of_independent_requests_find_ten_percent() -> None:
    found = latency_guardrails.independent(200, (16,))
    assert [o for o in found if not o.kept] == []


def test_an_error_rate_is_judged_as_it_is_simulated() -> None:
    """The controller's own comparison of the same slices; once with few users, whose slices each count as a request."""
    for users, looks in ((10_000, 3), (8, 1)):
        population = Population(users, 0.5, 50, looks, heavy_tailed)
        (a,), (b,) = returning(population, 0.05, 10.0, 1.0)(np.random.default_rng(13), 1)
        simulated = error_guardrails.compared(a, b)
        variants = {}
        for name, arm in (("a", a), ("b", b)):
            slices = {
                i: SliceEvidence(int(n), int(y), 0, 0)
                for i, (n, y) in enumerate(zip(arm.n[0, -1], arm.y[0, -1], strict=True))
            }
            n, y = int(arm.n[0, -1].sum()), int(arm.y[0, -1].sum())
            variants[name] = VariantEvidence({200: n - y, 503: y}, 0, slices, {})
        real = ShareComparison.of(RolloutEvidence("b", "a", 50, [Stratum(WEIGHTS, variants)]), metrics.ERROR_RATE)
        assert real.phi[-1] == pytest.approx(simulated.phi[-1, 0])
        assert real.phi[-1] > 1
        for ask in QUESTIONS:
            assert ask(real)[-1] == pytest.approx(ask(simulated)[-1], rel=1e-9)


def test_a_latency_is_judged_as_it_is_simulated() -> None:
    assert latency_guardrails.EDGE_SAMPLE == EDGE_SAMPLE
    seen = latency_guardrails.simulated(np.random.default_rng(14), 0.5, 1.1)
    edge, _ = latency_guardrails.edge_of(seen, 0.95)
    seen_by_judges = RolloutEvidence("b", "a", 50, [Stratum(WEIGHTS, evidence(seen), {"latency_p95": (edge,)})])
    real = QuantileComparison.of(seen_by_judges, metrics.MEASURED["latency_p95"])
    limit = latency_guardrails.binned_quantile(0.95)
    for side in (Side.GREATER, Side.LESS):
        level = latency_guardrails.level(seen, 0.95, limit, side, level_deflator)[-1]
        assert real.level(side, limit)[0] == pytest.approx(level, rel=1e-9)
        for by in (0.0, 0.2):
            increase = latency_guardrails.increase(seen, 0.95, by, side)[-1]
            assert real.increase(side, by, relative=True)[0] == pytest.approx(increase, rel=1e-9)


def evidence(seen: latency_guardrails.Seen) -> dict[str, VariantEvidence]:
    """What the controller would have of all requests of a simulated experiment."""
    traffic, values = seen.traffic, seen.values
    group, candidate = traffic.cell % traffic.population.slices, traffic.candidate[traffic.user]
    found = {}
    for name, in_variant in (("a", ~candidate), ("b", candidate)):
        chosen = {number: in_variant & (group == number) for number in range(traffic.population.slices)}
        groups = {number: Binned(values.lower[part], values.width[part]).bins() for number, part in chosen.items()}
        found[name] = VariantEvidence({200: int(in_variant.sum())}, 0, {}, groups)
    return found


def test_the_edge_is_the_controls_quantile_as_soon_as_it_has_enough_requests() -> None:
    seen = latency_guardrails.simulated(np.random.default_rng(15), 0.95, 1.0)
    edge, first = latency_guardrails.edge_of(seen, 0.5)
    requests = seen.sizes[0].sum(axis=-1)
    assert requests[first - 1] < EDGE_SAMPLE <= requests[first]
    assert 60 < edge < 110
    assert (latency_guardrails.increase(seen, 0.5, 0.0, Side.GREATER)[:first] == 0).all()
