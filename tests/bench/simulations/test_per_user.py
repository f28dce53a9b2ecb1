"""Guardrails per user keep their promise whoever sends much of the traffic. `make simulations` has more runs."""

from __future__ import annotations

import numpy as np
import pytest

from abmesh.experiment.metrics import ERROR_RATE
from abmesh.inference.numbers import Side
from bench.simulations import per_user, typical_users
from bench.simulations.users import Population, heavy_tailed
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.users import UserComparison
from controller.evidence.strata import Stratum
from controller.evidence.summary import SliceEvidence, VariantEvidence


@pytest.mark.parametrize(("rate", "share", "busy"), per_user.CHECKED)
def test_nobody_speaks_for_everybody(rate: float, share: float, busy: per_user.Busy) -> None:
    found = per_user.checked(300, (21,), rate, share, busy)
    assert [outcome for outcome in found if not outcome.kept] == []


def test_over_all_requests_one_user_hides_what_all_others_meet() -> None:
    found = {(o.rule, o.truth): o.rate for o in per_user.checked(200, (22,), 0.05, 0.05, per_user.HIDING)}
    assert found["over all requests, worse than the control", "errors doubled"] < 0.2
    assert found["per user, worse than the control", "errors doubled"] > 0.8


@pytest.mark.parametrize("busy", [per_user.NOBODY, per_user.HIDING])
def test_the_two_values_are_apart_where_one_user_makes_the_difference(busy: per_user.Busy) -> None:
    assert per_user.disagreed(200, (23,), busy).kept


def test_users_are_judged_as_they_are_simulated() -> None:
    population = Population(10_000, 0.5, 50, 3, heavy_tailed)
    a, b = per_user.visited(np.random.default_rng(24), 1, population, 0.05, 1.0, per_user.ALIKE)
    simulated = per_user.compared(a, b)
    variants = {}
    for name, arm in (("a", a), ("b", b)):
        slices = {
            number: SliceEvidence(int(n), int(y), 0, 0)
            for number, (n, y) in enumerate(zip(arm.n[0, -1], arm.y[0, -1], strict=True))
        }
        n, y = int(arm.n[0, -1].sum()), int(arm.y[0, -1].sum())
        variants[name] = VariantEvidence({200: n - y, 503: y}, 0, slices, {})
    evidence = RolloutEvidence("b", "a", 50, [Stratum({"a": 5_000, "b": 5_000}, variants)])
    real = UserComparison.of(evidence, ERROR_RATE, 1_000, per_user.ALPHA)
    for side in (Side.GREATER, Side.LESS):
        assert real.level(side, 0.06)[0] == pytest.approx(simulated.level(side, 0.06)[-1], rel=1e-9)
        for by, relative in ((0.0, True), (0.2, True), (0.01, False)):
            ours, theirs = (found.increase(side, by, relative=relative) for found in (real, simulated))
            assert ours[0] == pytest.approx(theirs[-1], rel=1e-9)
            assert ours[0] != 0


@pytest.mark.parametrize("world", typical_users.WORLDS)
def test_no_other_estimate_is_much_closer_to_the_mean_over_users(world: str) -> None:
    found = typical_users.errors(typical_users.WORLDS[world], 0.05, 72_000, 50, 150, 25)
    ours = found["both (chosen)"].rms
    assert ours <= 1.15 * min(error.rms for error in found.values())


def test_where_busier_users_fail_less_slices_cannot_tell() -> None:
    """The truth is 3.1%; a slice of 50 users has the rate of its requests."""
    found = typical_users.errors(typical_users.WORLDS["busier users fail less"], 0.05, 72_000, 50, 100, 26)
    assert -0.016 < found["both (chosen)"].bias < -0.013
    assert abs(found["both (chosen)"].bias) < abs(found["all requests"].bias)
