"""What was proven at one look stays proven at the next, whatever comes after it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment.model import Experiment
from controller.decision.decide import Decided, Inputs, decide
from controller.decision.guardrails import hypothesis
from controller.decision.history import History, PastStage
from controller.decision.verdicts import GoalVerdict, Verdict
from controller.evidence.coverage import Coverage
from controller.evidence.summary import VariantEvidence
from controller.records import Phase, adopt
from controller.wording.verdicts import sample_ratio_text
from tests.controller.decision.support import arm, rollout, text
from tests.controller.support import START, experiment

Arms = tuple[VariantEvidence, VariantEvidence]


def _looks(subject: Experiment, path: list[Arms], history: History | None = None) -> Iterator[Decided]:
    """One decision after another, a minute apart, none of which is carried out."""
    history = history or History()
    for minute, (a, b) in enumerate(path, start=1):
        at = START + timedelta(minutes=minute)
        inputs = Inputs(
            experiment=subject,
            state=adopt(subject, Phase.PROGRESSING, "s", START),
            history=history,
            began=START,
            coverage=Coverage(1),
            at=at,
            now=at,
            evidence={"model-a": a, "model-b": b},
        )
        found = decide(inputs)
        history = found.history
        yield found


def _experiment(*guardrails: dict[str, Any], **goal: Any) -> Experiment:
    fields = {"metric": "error_rate", "increase": False, "planned_requests": 20_000, **goal}
    plan = {"mode": "experiment", "steps": [50], "guardrails": list(guardrails), "goal": fields}
    return experiment(weight=50, rollout=plan)


BETTER = [(arm(4000, 300), arm(4000, 190)), (arm(8000, 400), arm(8000, 390))]
WORSE = [(b, a) for a, b in BETTER]


@pytest.mark.parametrize(("path", "verdict"), [(BETTER, GoalVerdict.WINNER), (WORSE, GoalVerdict.LOSER)])
def test_a_goal_that_was_decided_at_one_look_is_not_open_at_the_next(path: list[Arms], verdict: GoalVerdict) -> None:
    alone = list(_looks(_experiment(), path[1:]))[-1].situation.goal
    assert alone is not None
    assert alone.verdict is GoalVerdict.OPEN, "or else nothing would be tested"
    goals = [found.situation.goal for found in _looks(_experiment(), path)]
    assert [goal.verdict for goal in goals if goal] == [verdict, verdict]


def test_what_contradicts_a_decision_and_comes_later_does_not_turn_it_over() -> None:
    path = [*BETTER, (arm(20_000, 1000), arm(20_000, 3000)), (arm(25_000, 1200), arm(25_000, 4000))]
    goals = [found.situation.goal for found in _looks(_experiment(), path)]
    assert {goal.verdict for goal in goals if goal} == {GoalVerdict.WINNER}


def test_another_goal_in_the_document_is_another_question() -> None:
    history = list(_looks(_experiment(), BETTER))[-1].history
    turned = list(_looks(_experiment(increase=True), BETTER[1:], history))[-1].situation.goal
    assert turned is not None
    assert turned.verdict is GoalVerdict.LOSER
    mean = list(_looks(_experiment(metric="latency_mean"), BETTER[1:], history))[-1].situation.goal
    assert mean is not None
    assert mean.verdict is GoalVerdict.OPEN


@pytest.mark.parametrize("design", ["anytime", "group_sequential"])
def test_a_difference_worth_having_that_was_ruled_out_stays_so(design: str) -> None:
    subject = _experiment(design=design, looks=4, min_effect="2%")
    path = [(arm(10_000, 500), arm(10_000, 500)), (arm(12_000, 620), arm(12_000, 480))]
    path += [(arm(20_000, 1050), arm(20_000, 860)), (arm(21_000, 1050), arm(21_000, 860))]
    goals = [found.situation.goal for found in _looks(subject, path)]
    assert goals[0] is not None
    assert goals[0].verdict is GoalVerdict.NO_DIFFERENCE
    assert {goal.verdict for goal in goals if goal} <= {GoalVerdict.NO_DIFFERENCE, GoalVerdict.WINNER}
    if design == "group_sequential":
        assert all(goal.verdict is GoalVerdict.NO_DIFFERENCE for goal in goals if goal)


def test_an_alarm_about_the_split_stays_and_says_that_it_is_an_earlier_one() -> None:
    path = [(arm(1000), arm(1250)), (arm(20_000), arm(20_100))]
    subject = experiment(weight=50)
    first, second = (found.situation.sample_ratio for found in _looks(subject, path))
    assert first.now
    assert second.alarm
    assert second.p <= first.p <= 0.01
    assert not second.now
    said = sample_ratio_text(second, rollout())
    assert "requests were not split as the weights promise earlier" in said
    assert "abmesh pause and abmesh resume" in said
    assert not list(_looks(subject, path[1:]))[-1].situation.sample_ratio.alarm


ANY = [(arm(3000, 60), arm(3000, 110)), (arm(10_000, 200), arm(10_000, 220))]
HARM = [(arm(1000, 10), arm(1000, 90)), (arm(10_000, 100), arm(10_000, 280))]


@pytest.mark.parametrize(
    "guardrail",
    [
        {"metric": "error_rate", "max": "5%"},
        {"metric": "error_rate", "max_increase": "4%"},
        {"metric": "error_rate", "max_increase": "100%", "relative": True, "harm": "any"},
    ],
)
def test_harm_that_could_not_be_acted_upon_stays_harm_and_says_so(guardrail: dict[str, Any]) -> None:
    path = (
        HARM
        if guardrail.get("harm") != "any"
        else [(arm(3000, 60), arm(3000, 110)), (arm(10_000, 200), arm(10_000, 220))]
    )
    plan = {"guardrails": [guardrail], "steps": [50, 100], "analysis": {"emergency_stop": "100%"}}
    subject = experiment(weight=50, rollout=plan)
    (first,), (second,) = (found.situation.judgements for found in _looks(subject, path))
    assert (first.verdict, second.verdict) == (Verdict.HARMFUL, Verdict.HARMFUL)
    assert "is significantly above" in text(first)
    assert "at an earlier look" in text(second)
    assert second.p_harm <= first.p_harm
    (alone,) = list(_looks(subject, path[1:]))[-1].situation.judgements
    assert alone.verdict is not Verdict.HARMFUL


def test_so_does_an_emergency_stop() -> None:
    subject = experiment(weight=50, rollout={"guardrails": [{"metric": "error_rate", "max": "50%"}]})
    path = [(arm(100), arm(100, 40)), (arm(2000), arm(2000, 45))]
    kinds = [[item.kind for item in found.situation.judgements] for found in _looks(subject, path)]
    assert kinds == [["brake", "max"], ["brake", "max"]]
    last = list(_looks(subject, path))[-1].situation.judgements[0]
    assert "was significantly above 10% at an earlier look, and is 2.25% over 2000 requests now" in text(last)
    assert [item.kind for item in list(_looks(subject, path[1:]))[-1].situation.judgements] == ["max"]


def test_the_next_stage_remembers_what_was_proven_and_a_fresh_start_does_not() -> None:
    subject = experiment(weight=50)
    found = list(_looks(subject, [(arm(1000), arm(1250))]))[-1]
    evidence = {"model-a": arm(1000), "model-b": arm(1250)}
    history = found.history.after_stage(PastStage("d", subject.weights, evidence))
    assert history.peaks == found.history.peaks
    later = [(arm(30_000), arm(30_000))]
    assert next(_looks(subject, later, history)).situation.sample_ratio.alarm
    assert not next(_looks(subject, later)).situation.sample_ratio.alarm


GUARDRAILS: list[dict[str, Any]] = [
    {"metric": "error_rate", "max": "5%"},
    {"metric": "error_rate", "max_increase": "2%"},
    {"metric": "error_rate", "max_increase": "100%", "relative": True, "harm": "any"},
    {"metric": "latency_mean", "max_increase": "20ms"},
    {"metric": "latency_p95", "max": "300ms"},
]
MIXES: list[int | dict[int, int]] = [100, {90: 50, 110: 50}, {90: 50, 400: 50}]
STEPS = st.lists(
    st.tuples(st.integers(50, 4000), st.integers(80, 120), *[st.sampled_from([0, 10, 30, 60, 100, 300])] * 2),
    min_size=3,
    max_size=7,
)


@given(
    STEPS,
    st.lists(st.sampled_from(GUARDRAILS), max_size=3),
    st.sampled_from(["anytime", "group_sequential"]),
    st.sampled_from([None, "1%", "4%"]),
    st.tuples(st.sampled_from(MIXES), st.sampled_from(MIXES)),
)
@settings(max_examples=60, deadline=None)
def test_more_data_never_takes_back_what_was_proven(
    steps: list[tuple[int, int, int, int]],
    guardrails: list[dict[str, Any]],
    design: str,
    min_effect: str | None,
    ms: tuple[int | dict[int, int], int | dict[int, int]],
) -> None:
    """On any path, not only on those of one truth: rates may change at every step.

    What is set aside because of the control is not proven, and may go with the control's trouble.
    """
    subject = _experiment(*guardrails, design=design, planned_requests=8000, min_effect=min_effect)
    path, total = [], [0, 0, 0, 0]
    for n, percent, per_mille_a, per_mille_b in steps:
        m = n * percent // 100
        total = [a + b for a, b in zip(total, (n, n * per_mille_a // 1000, m, m * per_mille_b // 1000), strict=True)]
        path.append((arm(*total[:2], ms=ms[0]), arm(*total[2:], ms=ms[1])))
    alarmed, p = False, 1.0
    harmful: dict[str, float] = {}
    decided = GoalVerdict.OPEN
    for found in _looks(subject, path):
        split, goal = found.situation.sample_ratio, found.situation.goal
        assert split.alarm or not alarmed
        assert split.p <= p
        alarmed, p = split.alarm, split.p
        harm = {
            "emergency stop" if item.guardrail is None else hypothesis(item.guardrail): item
            for item in found.situation.judgements
            if item.verdict is Verdict.HARMFUL
        }
        assert harmful.keys() <= harm.keys()
        assert all(harm[key].p_harm <= before for key, before in harmful.items())
        harmful |= {key: item.p_harm for key, item in harm.items() if item.set_aside is None}
        assert goal is not None
        if goal.set_aside is not None:
            assert decided in (goal.verdict, GoalVerdict.OPEN, GoalVerdict.INCONCLUSIVE, GoalVerdict.NO_DIFFERENCE)
            continue
        if decided in (GoalVerdict.WINNER, GoalVerdict.LOSER) or design != "anytime":
            assert decided in (goal.verdict, GoalVerdict.OPEN, GoalVerdict.INCONCLUSIVE)
        elif decided is GoalVerdict.NO_DIFFERENCE:
            assert goal.verdict in (decided, GoalVerdict.WINNER, GoalVerdict.LOSER)
        decided = goal.verdict
