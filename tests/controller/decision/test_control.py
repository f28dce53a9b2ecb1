"""A control that fails: what it says of the candidate does not count, and it gets no users back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from abmesh.experiment.metrics import MEASURED
from abmesh.experiment.model import Experiment
from controller.decision.control import judge_control, of_work
from controller.decision.decide import Decided, Inputs, decide
from controller.decision.history import History
from controller.decision.verdicts import SetAside, Verdict
from controller.evidence.coverage import Coverage
from controller.evidence.summary import VariantEvidence
from controller.records import Cause, Kind, Phase, adopt
from controller.wording.reasons import reason
from controller.wording.verdicts import goal_text
from tests.controller.decision.support import arm, evidence_of
from tests.controller.support import START, experiment

FAST = {"metric": "latency_p95", "max_increase": "20%", "relative": True, "harm": "any"}
ERRORS = {"metric": "error_rate", "max": "5%"}
SLOW = {"metric": "latency_p95", "max": "300ms"}
USUAL = {100: 90, 400: 10}
QUICK_FAILURES = {5: 80, 100: 18, 400: 2}
"""What a control's durations look like of whose answers 80% are errors that take 5 ms."""

Arms = tuple[VariantEvidence, VariantEvidence]


def _subject(*guardrails: dict[str, Any], weight: int = 50, **plan: Any) -> Experiment:
    steps = {"steps": [weight, 100], "stage": {"min_duration": "1m", "max_duration": "5d", "min_requests": 100}}
    return experiment(weight=weight, rollout={**steps, "guardrails": list(guardrails), **plan})


def _looks(subject: Experiment, path: list[Arms], phase: Phase = Phase.PROGRESSING) -> Iterator[Decided]:
    """A decision a minute, on evidence that grows, none of which is carried out."""
    history = History()
    state = adopt(subject, phase, "s", START)
    for minute, (a, b) in enumerate(path, start=1):
        at = START + timedelta(minutes=minute)
        inputs = Inputs(subject, state, history, Coverage(1), at, at, START, {"model-a": a, "model-b": b})
        found = decide(inputs)
        assert reason(found.decision, found.situation, at)
        history = found.history
        yield found


def _path(*parts: tuple[int, float, float, Any]) -> list[Arms]:
    """Minutes with 300 requests of each: how many, both error rates (the control's first), the control's durations."""
    n, errors_a, errors_b, mixed = 0, 0.0, 0.0, dict[int, float]()
    found = []
    for minutes, a, b, ms in parts:
        for _ in range(minutes):
            n, errors_a, errors_b = n + 300, errors_a + 300 * a, errors_b + 300 * b
            whole = {ms: 1} if isinstance(ms, int) else ms
            for value, weight in whole.items():
                mixed[value] = mixed.get(value, 0) + 300 * weight / sum(whole.values())
            durations = {value: round(count) for value, count in mixed.items()}
            found.append((arm(n, round(errors_a), ms=durations), arm(n, round(errors_b), ms=USUAL)))
    return found


def _last(subject: Experiment, *parts: tuple[int, float, float, Any]) -> Decided:
    return list(_looks(subject, _path(*parts)))[-1]


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_control_that_fails_fast_never_gets_the_users_back(share: float) -> None:
    ms = {5: share * 100, 100: 90 * (1 - share), 400: 10 * (1 - share)}
    for found in _looks(_subject(FAST, ERRORS), _path((40, share, 0.005, ms))):
        assert found.decision.kind is Kind.HOLD
    assert found.decision.cause is Cause.CONTROL_BROKEN
    latency = next(item for item in found.situation.judgements if item.metric == "latency_p95")
    assert latency.set_aside is SetAside.CONTROL_FAILS
    assert found.history.peaks.get("latency_p95 max_increase 0.2 of the control, harm any", 0.0) < 3
    assert reason(found.decision, found.situation, START).startswith(
        f"the control model-a is broken: error_rate {share:.0%} over 12000 requests is significantly above"
    )


def test_the_same_candidate_is_rolled_back_if_the_control_is_as_quick_without_failing() -> None:
    assert _last(_subject(FAST, ERRORS), (40, 0.005, 0.005, QUICK_FAILURES)).decision.cause is Cause.HARMFUL


def test_a_control_that_fails_at_normal_speed_is_said_first_and_holds() -> None:
    found = _last(_subject(FAST, ERRORS), (10, 0.3, 0.005, USUAL))
    assert (found.decision.kind, found.decision.cause) == (Kind.HOLD, Cause.CONTROL_BROKEN)
    assert [item.judgement.kind for item in found.situation.control.breaches] == ["brake", "max"]
    text = reason(found.decision, found.situation, START)
    assert text.startswith("the control model-a is broken: error_rate 30% over 3000 requests")
    assert "on_broken_control: advance would go on" in text


def test_what_only_watches_is_not_what_a_broken_control_stands_in_the_way_of() -> None:
    found = _last(_subject({**FAST, "dry_run": True}, ERRORS), (5, 0.8, 0.005, QUICK_FAILURES))
    assert found.situation.judgements[0].set_aside is SetAside.CONTROL_FAILS
    assert reason(found.decision, found.situation, START).endswith(
        "model-b at 50% holds, and no users go back to model-a; on_broken_control: advance would go on"
    )


def test_advance_is_recommended_only_where_it_would_go_on() -> None:
    """Neither where the candidate breaks a limit of its own nor where the document says so already."""
    for errors, recommended in ((0.005, True), (0.8, False)):
        found = _last(_subject(FAST, ERRORS), (10, 0.8, errors, QUICK_FAILURES))
        assert found.decision.cause is Cause.CONTROL_BROKEN
        assert ("would go on" in reason(found.decision, found.situation, START)) is recommended
        advance = _last(_subject(FAST, ERRORS, on_broken_control="advance"), (10, 0.8, errors, QUICK_FAILURES))
        assert (advance.decision.kind is Kind.ADVANCE) is recommended


def test_a_goal_beside_a_broken_control_does_not_say_that_the_candidate_is_broken() -> None:
    goals: dict[str, Any] = {"goal": {"metric": "click_rate"}, "secondary_goals": [{"metric": "thumbs_up_rate"}]}
    found = _last(_subject(ERRORS, **goals), (10, 0.3, 0.005, USUAL))
    assert found.situation.goal is not None
    for judged in (found.situation.goal, *found.situation.secondary_goals):
        assert judged.set_aside is SetAside.CONTROL_BROKEN
        said = goal_text(judged, found.situation.rollout, found.situation.state)
        assert said.endswith("; it does not count, because model-a is broken")


def test_it_goes_on_if_the_document_says_so() -> None:
    found = _last(_subject(FAST, ERRORS, on_broken_control="advance"), (10, 0.3, 0.005, USUAL))
    assert (found.decision.kind, found.decision.target) == (Kind.ADVANCE, 10_000)
    assert reason(found.decision, found.situation, START).startswith("the control model-a is broken")
    quick = _last(_subject(FAST, ERRORS, on_broken_control="advance"), (10, 0.8, 0.005, QUICK_FAILURES))
    assert quick.decision.kind is Kind.ADVANCE


@pytest.mark.parametrize("on_broken_control", ["hold", "advance"])
def test_if_both_are_broken_alike_nothing_moves(on_broken_control: str) -> None:
    for found in _looks(_subject(ERRORS, on_broken_control=on_broken_control), _path((30, 0.3, 0.3, USUAL))):
        assert found.decision.kind is Kind.HOLD
    assert found.decision.cause is Cause.CONTROL_BROKEN
    (judged,) = found.situation.judgements
    assert (judged.verdict, judged.set_aside) == (Verdict.HARMFUL, SetAside.CONTROL_BROKEN)


def test_if_both_are_broken_the_worse_candidate_is_rolled_back() -> None:
    found = _last(_subject(ERRORS), (10, 0.3, 0.6, USUAL))
    assert found.decision.cause is Cause.HARMFUL
    assert found.situation.control.breaches[0].worse
    assert reason(found.decision, found.situation, START).startswith("the control model-a is broken")


def test_a_limit_that_both_break_counts_against_a_worse_candidate_without_an_emergency_stop() -> None:
    subject = _subject(ERRORS, analysis={"emergency_stop": "100%"})
    assert _last(subject, (10, 0.3, 0.6, USUAL)).decision.cause is Cause.HARMFUL
    assert _last(subject, (10, 0.3, 0.3, USUAL)).decision.cause is Cause.CONTROL_BROKEN


@pytest.mark.parametrize("some", [{"per": "user"}, {"segment": "power"}])
def test_a_limit_on_some_users_says_nothing_of_the_control(some: dict[str, str]) -> None:
    segments = {"header": "x-segment", "values": ["power"]}
    plan = {"guardrails": [{**ERRORS, **some}], "analysis": {"emergency_stop": "100%"}}
    (found,) = _looks(experiment(weight=50, segments=segments, rollout=plan), [(arm(4000, 1200), arm(4000))])
    assert not found.situation.control.broken


def test_refusals_are_compared_with_a_control_that_fails_a_little_more_but_not_with_one_beyond_its_limit() -> None:
    """Or a doubled rate of refusals would be tolerated because of one error in a hundred."""
    refusals = {"metric": "refusal_rate", "max_increase": "50%", "relative": True}
    subject = _subject(refusals, ERRORS, analysis={"emergency_stop": "100%"})
    for errors, cause in ((80, Cause.HARMFUL), (800, Cause.CONTROL_BROKEN)):
        (found,) = _looks(subject, [(_refusing(arm(8000, errors), 2), _refusing(arm(8000), 6))])
        assert 0 in found.situation.control.fails_more
        assert found.decision.cause is cause


def _refusing(evidence: VariantEvidence, refusals: int) -> VariantEvidence:
    """The evidence with so many refusals in every slice."""
    slices = {number: replace(item, amounts={"refusals": refusals}) for number, item in evidence.slices.items()}
    return replace(evidence, slices=slices, amounts={"refusals": refusals * len(slices)})


def test_an_outage_behind_both_that_is_over_is_not_the_candidates() -> None:
    path = _path((5, 0.3, 0.3, USUAL), (40, 0, 0, USUAL))
    for found in _looks(_subject(ERRORS, {"metric": "error_rate", "max": "8%"}), path):
        assert found.decision.kind is not Kind.ROLLBACK


def test_a_control_that_has_recovered_is_not_broken() -> None:
    looks = list(_looks(_subject(ERRORS), _path((60, 0.6, 0.0, USUAL), (60, 0.001, 0.001, USUAL))))
    assert all(found.situation.control.broken for found in looks[1:60])
    back = next(minute for minute, found in enumerate(looks[60:], start=1) if not found.situation.control.broken)
    assert back <= 5
    assert not any(found.situation.control.broken for found in looks[60 + back :])
    assert looks[-1].decision.kind is Kind.ADVANCE


def test_a_control_that_breaks_after_hours_or_again_is_broken() -> None:
    late = list(_looks(_subject(ERRORS), _path((100, 0.001, 0.001, USUAL), (3, 0.6, 0.001, USUAL))))
    assert not late[99].situation.control.broken
    assert late[-1].situation.control.broken
    assert _last(_subject(ERRORS), (30, 0.6, 0, USUAL), (60, 0, 0, USUAL), (3, 0.6, 0, USUAL)).situation.control.broken


def test_harm_that_begins_after_the_control_recovered_is_found() -> None:
    """The rows that hold the control's failure say nothing of latencies; those since then do."""
    subject = _subject(FAST)
    failing, well = _path((20, 0.6, 0.0, USUAL)), []
    n, mixed = 6000, {100: 6000}
    for _ in range(30):
        n, mixed = n + 300, {100: 6000, 400: mixed.get(400, 0) + 300}
        well.append((arm(n, 3600, ms=100), arm(n, 0, ms=mixed)))
    causes = [found.decision.cause for found in _looks(subject, failing + well)]
    assert Cause.HARMFUL not in causes[:20]
    assert causes[-1] is Cause.HARMFUL


def test_a_slow_control_does_not_keep_a_candidate_that_fails() -> None:
    """Errors outrank the rest: with a control beyond a limit on latency, errors still roll back."""
    found = _last(_subject(SLOW, ERRORS), (10, 0.001, 0.4, 500))
    assert found.situation.control.broken
    assert found.decision.cause is Cause.HARMFUL


def test_a_broken_control_ends_no_stage_by_its_time() -> None:
    plan: dict[str, Any] = {
        "on_timeout": "rollback",
        "stage": {"min_duration": "1m", "max_duration": "5m", "min_requests": 100},
    }
    found = _last(_subject(ERRORS, **plan), (10, 0.3, 0.001, USUAL))
    assert (found.decision.kind, found.decision.cause) == (Kind.HOLD, Cause.CONTROL_BROKEN)
    unbroken = _last(_subject({"metric": "error_rate", "max": "0.2%"}, **plan), (10, 0.001, 0.001, USUAL))
    assert unbroken.decision.kind is Kind.ROLLBACK


def test_a_broken_control_wins_no_experiment() -> None:
    goal = {"metric": "latency_mean", "increase": False, "planned_requests": 10_000}
    plan: dict[str, Any] = {"mode": "experiment", "steps": [50], "goal": goal, "on_broken_control": "advance"}
    found = _last(_subject(**plan), (20, 0.8, 0.0, QUICK_FAILURES))
    assert found.situation.goal is not None
    assert found.situation.goal.set_aside is SetAside.CONTROL_BROKEN
    assert (found.decision.kind, found.decision.cause) == (Kind.HOLD, Cause.HARM_SET_ASIDE)
    assert found.history.peaks == {}
    assert _last(_subject(**plan), (20, 0.0, 0.0, QUICK_FAILURES)).decision.cause is Cause.LOSER


def test_a_limit_that_only_watches_says_nothing_of_the_control() -> None:
    found = _last(_subject({**ERRORS, "dry_run": True}), (10, 0.07, 0.001, USUAL))
    assert not found.situation.control.broken
    assert _last(_subject(ERRORS), (10, 0.07, 0.001, USUAL)).situation.control.broken


def test_without_users_of_the_control_nothing_is_said_of_it() -> None:
    subject = experiment(weight=100, rollout={"steps": [100], "guardrails": [ERRORS]})
    assert not judge_control(subject, evidence_of(arm(1000, 600), arm(1000), weight=10_000)).broken


def test_what_takes_less_work_when_it_fails_is_named() -> None:
    assert {name for name, metric in MEASURED.items() if not of_work(metric)} == {
        "error_rate",
        "refusal_rate",
        "cache_rate",
    }
