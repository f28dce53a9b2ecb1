"""Several goals: the primary one decides as if it were alone, the others are reported with Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from abmesh.analysis.replay import replay
from abmesh.experiment.model import Experiment
from abmesh.inference.multiple import holm
from controller.codec.entries import decision_entry
from controller.decision.decide import Decided, Inputs, decide
from controller.decision.history import History
from controller.decision.verdicts import GoalVerdict
from controller.evidence.coverage import Coverage
from controller.evidence.summary import SliceEvidence, VariantEvidence
from controller.records import Cause, Phase, adopt
from controller.wording.remarks import remarks_of
from tests.controller.decision.support import SLICES
from tests.controller.support import START, experiment

ERRORS = {"metric": "error_rate", "increase": False}
CACHE = {"metric": "cache_rate", "increase": True}
REFUSALS = {"metric": "refusal_rate", "increase": False}
PRIMARY = {"metric": "latency_mean", "increase": False, "planned_requests": 50_000}


def _subject(*secondary: dict[str, Any], **goal: Any) -> Experiment:
    plan = {"mode": "experiment", "steps": [50], "guardrails": [], "goal": {**PRIMARY, **goal}}
    return experiment(weight=50, rollout={**plan, "secondary_goals": list(secondary)})


def _arm(requests: int, errors: int, refusals: int, cached: int, ms: float = 100.0) -> VariantEvidence:
    """Requests spread evenly over the slices; each number is a multiple of the slices."""
    n, failed, refused, from_cache = (value // SLICES for value in (requests, errors, refusals, cached))
    spent = [round(n * ms * (1 + 0.02 * (number % 5 - 2))) for number in range(SLICES)]
    amounts = {"refusals": refused, "cached": from_cache}
    slices = {number: SliceEvidence(n, failed, 0, spent[number], amounts) for number in range(SLICES)}
    totals = {name: count * SLICES for name, count in amounts.items()}
    codes = {200: (n - failed) * SLICES, 503: failed * SLICES}
    return VariantEvidence(codes, sum(spent), slices, {}, totals)


def _inputs(subject: Experiment, a: VariantEvidence, b: VariantEvidence, history: History, minute: int) -> Inputs:
    at = START + timedelta(minutes=minute)
    state = adopt(subject, Phase.PROGRESSING, "s", START)
    return Inputs(subject, state, history, Coverage(1), at, at, START, {"model-a": a, "model-b": b})


def _looks(subject: Experiment, path: list[tuple[VariantEvidence, VariantEvidence]]) -> Iterator[Decided]:
    history = History()
    for minute, (a, b) in enumerate(path, start=1):
        found = decide(_inputs(subject, a, b, history, minute))
        history = found.history
        yield found


BETTER = (_arm(20_000, 1000, 400, 0), _arm(20_000, 400, 400, 0))


def test_every_goals_p_is_corrected_for_all_of_them() -> None:
    (found,) = _looks(_subject(ERRORS, REFUSALS), [BETTER])
    primary, judged = found.situation.goal, found.situation.secondary_goals
    assert primary is not None
    assert [item.metric for item in judged] == ["error_rate", "refusal_rate"]
    every = [primary, *judged]
    assert [item.adjusted for item in every] == pytest.approx(holm([item.p for item in every]))
    assert [item.verdict for item in judged] == [GoalVerdict.WINNER, GoalVerdict.OPEN]


def test_what_is_significant_alone_may_not_be_beside_others() -> None:
    """The same goal, the same evidence: only the number of goals differs."""
    path = [(_arm(20_000, 1000, 400, 0), _arm(20_000, 850, 400, 0))]
    (few,) = _looks(_subject(ERRORS), path)
    (many,) = _looks(_subject(ERRORS, REFUSALS, CACHE), path)
    (alone,), (beside, *_) = few.situation.secondary_goals, many.situation.secondary_goals
    assert alone.p == beside.p < 0.05
    assert alone.adjusted is not None
    assert beside.adjusted is not None
    assert alone.adjusted == pytest.approx(2 * alone.p)
    assert beside.adjusted == pytest.approx(4 * beside.p)


@pytest.mark.parametrize("design", ["anytime", "group_sequential"])
def test_they_decide_nothing(design: str) -> None:
    worse = (BETTER[1], BETTER[0])
    for secondary, verdict in (BETTER, GoalVerdict.WINNER), (worse, GoalVerdict.LOSER):
        (found,) = _looks(_subject(ERRORS, design=design), [secondary])
        assert found.situation.secondary_goals[0].verdict is verdict
        assert (found.decision.cause, found.decision.phase) == (Cause.GOAL_OPEN, Phase.PROGRESSING)
        (plain,) = _looks(_subject(design=design), [secondary])
        assert found.situation.goal is not None
        assert plain.situation.goal is not None
        assert found.situation.goal.verdict is plain.situation.goal.verdict
        assert found.situation.goal.log_e_better == plain.situation.goal.log_e_better


def test_what_was_found_stays_found() -> None:
    back = (_arm(40_000, 2000, 800, 0), _arm(40_000, 1900, 800, 0))
    first, second = _looks(_subject(ERRORS), [BETTER, back])
    assert first.situation.secondary_goals[0].verdict is GoalVerdict.WINNER
    assert second.situation.secondary_goals[0].verdict is GoalVerdict.WINNER
    assert second.history.peaks["error_rate not lower"] == first.history.peaks["error_rate not lower"]
    (alone,) = _looks(_subject(ERRORS), [back])
    assert alone.situation.secondary_goals[0].verdict is GoalVerdict.OPEN


def test_without_data_a_goal_is_open_and_the_others_are_corrected_all_the_same() -> None:
    (found,) = _looks(_subject(ERRORS, {"metric": "output_tokens_mean", "increase": False}), [BETTER])
    errors, tokens = found.situation.secondary_goals
    assert (tokens.verdict, tokens.value, tokens.p) == (GoalVerdict.OPEN, None, 1.0)
    assert errors.verdict is GoalVerdict.WINNER


def test_they_are_recorded_replayed_and_shown() -> None:
    inputs = _inputs(_subject(ERRORS, REFUSALS), *BETTER, History(), 1)
    found = decide(inputs)
    entry = decision_entry("d", "g", inputs, found)
    assert [item["metric"] for item in entry.secondary_goals] == ["error_rate", "refusal_rate"]
    assert entry.secondary_goals[0]["verdict"] == "winner"
    assert "corrected for 3 goals (Holm)" in entry.secondary_goals[0]["text"]
    assert [item.differences for item in replay([entry])] == [()]
    remarks = remarks_of(found.situation, START)
    assert [(item.about, item.name, item.verdict) for item in remarks] == [
        ("goal", "error_rate", "winner"),
        ("goal", "refusal_rate", "open"),
    ]


@pytest.mark.simulation
@pytest.mark.soak
def test_none_of_several_seems_to_differ_where_none_does() -> None:
    """Five goals, 80 experiments, 20 looks: any of them at all in at most alpha plus three standard errors."""
    goals = [ERRORS, CACHE, REFUSALS, {"metric": "click_rate", "increase": True}]
    subject = _subject(*goals)
    random = np.random.default_rng(7)
    runs, wrong = 80, 0
    for _ in range(runs):
        n = [np.zeros((SLICES, 5), np.int64) for _ in range(2)]
        history, seen = History(), False
        for look in range(1, 21):
            for counts in n:
                sent = random.poisson(20, SLICES)
                counts[:, 0] += sent
                for column, rate in enumerate((0.05, 0.3, 0.02, 0.1), start=1):
                    counts[:, column] += random.binomial(sent, rate)
            a, b = (_counted(counts) for counts in n)
            found = decide(_inputs(subject, a, b, history, look))
            history = found.history
            seen |= any(
                item.verdict in (GoalVerdict.WINNER, GoalVerdict.LOSER) for item in found.situation.secondary_goals
            )
        wrong += seen
    assert wrong / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def _counted(counts: np.ndarray[Any, np.dtype[np.int64]]) -> VariantEvidence:
    slices, totals = {}, dict.fromkeys(("refusals", "cached", "events:click"), 0)
    for number, (requests, errors, cached, refusals, clicks) in enumerate(counts.tolist()):
        amounts = {"refusals": refusals, "cached": cached, "events:click": clicks}
        slices[number] = SliceEvidence(requests, errors, 0, requests * 100, amounts)
        totals = {name: total + amounts[name] for name, total in totals.items()}
    n, errors = int(counts[:, 0].sum()), int(counts[:, 1].sum())
    return VariantEvidence({200: n - errors, 503: errors}, n * 100, slices, {}, totals)
