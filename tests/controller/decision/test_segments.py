"""Guardrails on one segment of the users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from abmesh.experiment import metrics
from abmesh.experiment.names import GROUPS
from abmesh.experiment.rollout import Rollout
from controller.codec.evidence import pack, unpack
from controller.decision.decide import Inputs, judge
from controller.decision.guardrails import hypothesis
from controller.decision.guardrails import judge as judge_guardrail
from controller.decision.history import History
from controller.decision.look_back import look_back, with_checkpoint
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.segments import too_thin
from controller.decision.verdicts import Judgement, Verdict
from controller.evidence.coverage import Coverage
from controller.evidence.summary import SegmentEvidence, SliceEvidence, VariantEvidence, whole_segment
from controller.records import Phase, Stage, adopt
from tests.controller.decision.support import arm, evidence_of, text
from tests.controller.support import START, experiment

SEGMENTS = {"header": "x-segment", "values": ["power"]}
POWER = {"metric": "error_rate", "segment": "power", "max": "5%"}
MORE = {"metric": "error_rate", "segment": "power", "max_increase": "1%"}
SLOWER = {"metric": "latency_p95", "segment": "power", "max_increase": "20%", "relative": True}


def in_groups(found: VariantEvidence, groups: range = range(GROUPS)) -> SegmentEvidence:
    """The evidence of some users, as Envoy counts a segment of them."""
    slices: dict[int, list[SliceEvidence]] = {}
    for number, item in found.slices.items():
        slices.setdefault(number * GROUPS // 50, []).append(item)
    return whole_segment(
        {
            group: SegmentEvidence(
                codes={200: sum(item.requests - item.errors for item in items), 500: sum(i.errors for i in items)},
                durations=found.groups[group],
            )
            for group, items in slices.items()
            if group in groups
        }
    )


def parted(power: VariantEvidence, casual: VariantEvidence, groups: range = range(GROUPS)) -> VariantEvidence:
    """A variant with two segments; what is said of all its users is that of the second one, ten times as many."""
    return replace(casual, segments={"power": in_groups(power, groups), "other": in_groups(casual)})


def judged(guardrail: Mapping[str, Any], evidence: RolloutEvidence) -> Judgement:
    plan = planned(guardrail)
    return judge_guardrail(plan.guardrails[0], plan, evidence)


def planned(*guardrails: Mapping[str, Any]) -> Rollout:
    found = experiment(segments=SEGMENTS, rollout={"guardrails": list(guardrails)}).rollout
    assert found is not None
    return found


GOOD, BAD = arm(1000, 10), arm(1000, 150)
MANY = arm(10_000, 100)


@pytest.mark.parametrize("guardrail", [POWER, MORE], ids=["max", "max_increase"])
def test_harm_in_one_segment_is_found_there_alone(guardrail: dict[str, Any]) -> None:
    evidence = evidence_of(parted(GOOD, MANY), parted(BAD, MANY))
    found = judged(guardrail, evidence)
    assert found.verdict is Verdict.HARMFUL
    assert found.value == pytest.approx(0.15)
    assert found.n == 1000
    assert text(found).startswith("error_rate of segment power 15% over 1000 requests is significantly above its limit")
    other = {**guardrail, "segment": "other"}
    assert judged(other, evidence).verdict is Verdict.HEALTHY
    whole = {key: value for key, value in guardrail.items() if key != "segment"}
    assert judged(whole, evidence).verdict is Verdict.HEALTHY
    assert len({hypothesis(planned(each).guardrails[0]) for each in (guardrail, other, whole)}) == 3


def test_a_segment_is_compared_at_its_own_quantiles() -> None:
    slow, quick = arm(2000, ms={100: 80, 300: 20}), arm(2000, ms={100: 80, 130: 20})
    evidence = evidence_of(
        parted(quick, MANY),
        parted(slow, MANY),
        edges={"latency_p95 of segment power": (137.5,), "latency_p95": (900.0,)},
    )
    assert evidence.in_segment("power").present.edges == {"latency_p95": (137.5,)}
    found = judged(SLOWER, evidence)
    assert found.verdict is Verdict.HARMFUL
    assert found.control == pytest.approx(137.5)
    assert text(found).startswith("latency_p95 of segment power")


@pytest.mark.parametrize("guardrail", [POWER, MORE], ids=["max", "max_increase"])
def test_a_segment_of_too_few_users_is_inconclusive_whatever_it_shows(guardrail: dict[str, Any]) -> None:
    few = range(4)
    evidence = evidence_of(parted(GOOD, MANY, few), parted(BAD, MANY, few))
    found = judged(guardrail, evidence)
    assert (found.verdict, found.thin) == (Verdict.INCONCLUSIVE, True)
    assert text(found).endswith("cannot be judged yet: too few users of this segment send most of its requests")
    enough = range(6)
    assert judged(guardrail, evidence_of(parted(GOOD, MANY, enough), parted(BAD, MANY, enough))).thin is False


def test_a_limit_without_a_comparison_needs_no_users_of_the_control() -> None:
    evidence = evidence_of(parted(GOOD, MANY, range(2)), parted(BAD, MANY))
    assert judged(POWER, evidence).verdict is Verdict.HARMFUL
    assert judged(MORE, evidence).thin
    error_rate = metrics.ERROR_RATE
    assert too_thin(evidence.in_segment("power"), error_rate)
    assert not too_thin(evidence.in_segment("power"), error_rate, alone=True)


def test_a_segment_that_nobody_is_in_or_that_was_counted_without_groups_has_no_data() -> None:
    lumped = {"power": SegmentEvidence({200: 900, 500: 100})}
    for segments in ({}, lumped):
        arms = [replace(MANY, segments=segments) for _ in range(2)]
        found = judged(POWER, evidence_of(*arms))
        assert found.verdict is Verdict.ERROR
        assert text(found) == "there is no data on error_rate of segment power on model-b yet"


def test_harm_of_a_segment_that_begins_late_is_found_since_a_checkpoint() -> None:
    names = ("model-b", "model-a")
    before = {"model-a": parted(arm(20_000, 100), MANY), "model-b": parted(arm(20_000, 100), MANY)}
    at = START + timedelta(hours=1)
    guarded = [metrics.ERROR_RATE, metrics.MEASURED["latency_p95"]]
    history = with_checkpoint(History(), START, at, before, names, guarded, segments={"power"})
    kept = history.checkpoints[-1].evidence
    assert set(kept["model-b"].segments) == {"power"}
    assert unpack(pack(kept))["model-b"].segments == kept["model-b"].segments
    later = {
        "model-a": parted(arm(20_400, 102), MANY),
        "model-b": parted(arm(20_400, 100 + 150), MANY),
    }
    since = look_back(history.checkpoints, at + timedelta(minutes=1), later, *names, {}).increments
    found = judged(POWER, evidence_of(later["model-a"], later["model-b"], since=since))
    assert found.verdict is Verdict.HARMFUL
    assert found.since == pytest.approx(60)
    assert found.value == pytest.approx(150 / 400)
    assert judged(POWER, evidence_of(later["model-a"], later["model-b"])).verdict is Verdict.HEALTHY


def test_a_rollout_keeps_what_its_segments_guardrails_need() -> None:
    """A latency to compare at, chosen by the control's own users of the segment, and a peak under a name of its own."""
    guardrails = [SLOWER, {"metric": "latency_p95", "max_increase": "20%", "relative": True}, POWER]
    subject = experiment(segments=SEGMENTS, rollout={"guardrails": guardrails, "steps": [50]})
    slow = arm(1000, ms={200: 90, 400: 10})
    evidence = {"model-a": parted(slow, MANY), "model-b": parted(BAD, MANY)}
    at = START + timedelta(minutes=5)
    state = adopt(subject, Phase.PROGRESSING, "s", START)
    state = state.model_copy(update={"stage": Stage(id="s", weight=5000, started_at=START)})
    inputs = Inputs(subject, state, History(), Coverage(1), at=at, now=at, began=START, evidence=evidence)
    situation, history = judge(inputs)
    assert history.edges["latency_p95 of segment power"][0] == pytest.approx(405.0)
    assert history.edges["latency_p95"][0] < 200
    harmful = [item for item in situation.judgements if item.verdict is Verdict.HARMFUL]
    assert all(item.typical is None for item in situation.judgements if item.guardrail and item.guardrail.segment)
    assert [item.guardrail.subject for item in harmful if item.guardrail] == ["error_rate of segment power"]
    assert any(name.startswith("error_rate of segment power max") for name in history.peaks)
    assert set(history.checkpoints[-1].evidence["model-b"].segments) == {"power"}
    assert subject.rollout is not None
    assert subject.rollout.alarms == 4, "three guardrails and the emergency stop share alpha"
