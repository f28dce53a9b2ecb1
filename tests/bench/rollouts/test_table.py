"""What is asked of the rollouts, and how the table says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from abmesh.experiment.bucketing import bucket_of
from abmesh.experiment.codec import parse
from bench.rollouts.__main__ import main
from bench.rollouts.batch import Batch, Rollout
from bench.rollouts.plans import AS_FAST, DOUBLED, FEW, OPEN, SAME, SLOWER, Plan, heavy_users, names_of
from bench.rollouts.plans import document as experiments
from bench.rollouts.table import document, gave_back, held, outcomes, rolled_back_at_first_step, table, went_on
from bench.rollouts.worlds import CONTROL_FAILS_FAST, HEAVY_ALIKE, HEAVY_ON_CONTROL, PROBE, WORLDS

GONE_UP = Rollout("same-0", "same", "promoted", 100.0, "last_step_passed", "", 5_000, naive=True, entries=9)
ROLLED_BACK = Rollout("doubled-1", "doubled", "rolled_back", 5.0, "harmful", "", 3_000, naive=True, entries=5)


def _few(reason: str, cause: str = "min_requests") -> Rollout:
    return Rollout("few-2", "few", "progressing", 50.0, cause, reason, 9, naive=False, entries=2)


def test_doubled_errors_count_as_found_only_where_no_more_users_got_them() -> None:
    assert rolled_back_at_first_step(ROLLED_BACK)
    assert not rolled_back_at_first_step(replace(ROLLED_BACK, highest=25.0))
    assert not rolled_back_at_first_step(replace(ROLLED_BACK, phase="progressing", cause="inconclusive"))
    found = {outcome.rule: outcome.found for outcome, _ in outcomes([ROLLED_BACK, replace(ROLLED_BACK, highest=25.0)])}
    assert (found["rolled back at 5%"], found["went on from 5%"]) == (1, 1)


def test_a_hold_must_say_how_much_is_missing() -> None:
    assert held(_few("model-b at 50% has had 8 of at least 100 requests in 2m"))
    assert held(_few("needs 0.05; about 540 more requests (1h28m at this rate)", "inconclusive"))
    assert not held(_few("model-b at 50% waits"))
    assert not held(_few("too close to its limit to estimate how many more requests it needs", "inconclusive"))
    assert not held(replace(_few("8 of at least 100 requests"), highest=100.0))


def test_a_rate_beyond_alpha_is_marked_and_a_naive_one_only_told() -> None:
    false = replace(GONE_UP, phase="rolled_back", cause="harmful", highest=10.0)
    rollouts = [GONE_UP] * 30 + [false] * 10
    kept = {outcome.rule: outcome.kept for outcome, _ in outcomes(rollouts)}
    assert kept["rolled back"] is False
    assert kept["rolled back by a naive z every 100 requests"] is True
    assert all(outcome.kept for outcome, _ in outcomes([GONE_UP] * 38 + [false] * 2))


def test_a_slower_candidate_that_goes_on_is_a_false_promotion() -> None:
    slower = replace(GONE_UP, plan=SLOWER.name)
    assert went_on(slower)
    assert not went_on(replace(slower, highest=50.0))
    found = {outcome.rule: outcome.found for outcome, _ in outcomes([slower, replace(slower, highest=50.0)])}
    assert found["went on from 50%"] == 1


def test_the_table_and_the_json_hold_every_rollout() -> None:
    batch = Batch((GONE_UP, ROLLED_BACK), 60.0, 9_000, 55, 0.1, 0, Path("config"), Path("state"))
    lines = table([batch, batch], when="2026-01-01")
    assert lines[0] == "4 rollouts, 18,000 requests through Envoy in 2 minutes on 2026-01-01, looked at in 110 ticks."
    assert (
        "| error_rate, steps 5, 25, 50, 100 | errors doubled | rolled back at 5% | 2 | 1.000 | at least 0.9 | 3,000 |"
        in (lines)
    )
    found = json.loads(document([batch, batch], 7))
    assert (found["seed"], len(found["batches"]), len(found["batches"][0]["rollouts"])) == (7, 2, 2)


def test_a_control_that_fails_must_never_get_users_back() -> None:
    fast = replace(GONE_UP, plan=CONTROL_FAILS_FAST.name, phase="progressing")
    assert not gave_back(fast)
    assert gave_back(replace(fast, phase="rolled_back", cause="timeout"))
    found = [outcome for outcome, _ in outcomes([fast] * 19 + [replace(fast, phase="rolled_back")])]
    assert [(outcome.rule, outcome.found, outcome.kept) for outcome in found] == [
        ("users went back to the control", 1, False)
    ]


def test_heavy_users_have_names_that_join_at_their_step() -> None:
    plans = [HEAVY_ON_CONTROL, PROBE, HEAVY_ALIKE, SAME]
    late, probe, alike, nobody = (
        heavy_users(item, plan)
        for item, plan in zip(parse(experiments(plans, 8001, 3), "x").experiments, plans, strict=True)
    )
    assert [len(users) for users in (late, probe, alike, nobody)] == [1, 1, 1, 0]
    # The candidate takes the last buckets first: 10%, then half.
    salts = [item.hash_salt for item in parse(experiments(plans, 8001, 3), "x").experiments]
    assert bucket_of(salts[0], next(iter(late)).encode()) < 5000
    assert bucket_of(salts[1], next(iter(probe)).encode()) >= 9000


def test_every_plan_is_a_valid_experiment_with_a_salt_and_a_path_of_its_own() -> None:
    plans: list[Plan] = [SAME, SAME, DOUBLED, SLOWER, AS_FAST, FEW, OPEN, *WORLDS]
    found = parse(experiments(plans, 8001, 3), "x").experiments
    assert [item.name for item in found] == names_of(plans)
    assert len({item.hash_salt for item in found}) == len({item.match.path_prefix for item in found}) == len(plans)
    assert [item.rollout.steps[0] for item in found if item.rollout] == [plan.steps[0] * 100 for plan in plans]


@pytest.mark.parametrize(
    "arguments", [["--batches", "0", "--worlds", "0"], ["--batches", "many"], ["--worlds", "-1"], ["more"]]
)
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
