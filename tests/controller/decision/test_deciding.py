from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.analysis.replay import inputs_of
from abmesh.experiment.errors import StateError
from abmesh.experiment.model import Experiment
from controller.decision.deciding import EDGE_SAMPLE, Inputs, after_stage, deliberate, recorded
from controller.decision.history import Evidence, Look, Mark, Memory, PastStage, pack, unpack
from controller.decision.verdicts import BALANCED
from controller.evidence.summary import SliceEvidence, VariantEvidence
from controller.records import Cause, ExperimentState, Kind, Phase, Stage, adopt
from controller.rollout.tick import decision_entry
from tests.controller.decision.support import arm
from tests.controller.support import START, experiment

NAMES = ("model-a", "model-b")
MIX = {80: 40, 100: 40, 150: 15, 300: 5}

COUNTS = st.integers(0, 10**12)
SLICES = st.builds(SliceEvidence, COUNTS, COUNTS, COUNTS, COUNTS)
BINS = st.dictionaries(
    st.tuples(st.sampled_from([0.0, 1.0, 1.1, 95.0, 1200.0]), st.sampled_from([0.1, 1.0, 10.0, 100.0])),
    st.integers(1, 10**12),
    max_size=5,
)
VARIANTS = st.builds(
    VariantEvidence,
    st.dictionaries(st.sampled_from([0, 200, 404, 500, 503]), COUNTS, max_size=4),
    COUNTS,
    st.dictionaries(st.integers(0, 49), SLICES, max_size=5),
    st.dictionaries(st.integers(0, 9), BINS, max_size=3),
)
EVIDENCE = st.dictionaries(st.sampled_from(["model-a", "model-b", "null", "ü"]), VARIANTS, max_size=3)


@given(EVIDENCE)
@settings(deadline=None)
def test_packed_evidence_comes_back_as_it_was(evidence: Evidence) -> None:
    text = pack(evidence)
    assert text.isascii()
    assert unpack(text) == evidence


@pytest.mark.parametrize("text", ["", "x", "ünpacked", pack({})[:-2], pack({"a": arm(10)})[3:]])
def test_damaged_evidence_is_an_error(text: str) -> None:
    with pytest.raises(StateError, match="packed evidence is damaged"):
        unpack(text)


GUARDRAILS: list[dict[str, Any]] = [
    {"metric": "error_rate", "max": "5%"},
    {"metric": "error_rate", "max_increase": "1%", "harm": "any"},
    {"metric": "latency_p95", "max": "500ms"},
    {"metric": "latency_p99", "max_increase": "20%", "relative": True},
    {"metric": "latency_mean", "max_increase": "30ms"},
]
GOALS: list[dict[str, Any] | None] = [
    None,
    {"metric": "latency_mean", "increase": False, "min_effect": "10ms"},
    {"metric": "error_rate", "increase": False, "min_effect": "5%", "relative": True},
    {"metric": "click_rate"},
]


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    """An experiment with a rollout, in many shapes."""
    candidate = draw(st.integers(0, 10_000))
    rollout: dict[str, Any] = {
        "guardrails": draw(st.lists(st.sampled_from(GUARDRAILS), max_size=4)),
        "analysis": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "alpha": st.sampled_from(["1%", "20%"]),
                    "emergency_stop": st.sampled_from(["5%", "100%"]),
                    "on_sample_ratio": st.just("report"),
                    "tuned_for": st.integers(1, 10**6),
                },
            )
        ),
        "on_timeout": draw(st.sampled_from(["hold", "rollback"])),
    }
    goal = draw(st.sampled_from(GOALS))
    if goal is not None:
        rollout["goal"] = goal
    if goal is not None and goal["metric"] != "click_rate" and draw(st.booleans()):
        designs = st.sampled_from(["anytime", "group_sequential"])
        rollout |= {
            "mode": "experiment",
            "steps": [50],
            "goal": {**goal, "planned_requests": 500, "design": draw(designs)},
        }
    fields: dict[str, Any] = {
        "variants": [
            {"name": "model-a", "cluster": "a", "weight": f"{(10_000 - candidate) / 100:.2f}", "control": True},
            {"name": "model-b", "cluster": "b", "weight": f"{candidate / 100:.2f}", "timeout": "10s"},
        ],
        "events": ["click"],
    }
    optional: dict[str, Any] = {
        "salt": "another",
        "slices": 20,
        "match": {"path_prefix": "/v1/"},
        "unit": [{"header": "x-user-id"}, {"cookie": "id"}, {"query": "user"}],
        "segments": {"header": "x-user-segment", "values": ["power", "casual"]},
        "overrides": [{"header": {"x-group": "beta"}, "variant": "model-b"}],
    }
    fields |= {name: value for name, value in optional.items() if draw(st.booleans())}
    return experiment(rollout=rollout, **fields)


def _inputs(subject: Experiment, present: Evidence, memory: Memory | None = None, **changes: Any) -> Inputs:
    state: ExperimentState = changes.pop("state", None) or adopt(subject, Phase.PROGRESSING, "s", START)
    fields: dict[str, Any] = {
        "experiment": subject,
        "state": state,
        "memory": memory or Memory(),
        "began": START + timedelta(seconds=5),
        "evidence": pack(present) if present else "",
        "envoys": 1,
        "at": START + timedelta(seconds=125),
        "now": START + timedelta(seconds=126),
        **changes,
    }
    return Inputs(**fields)


PRESENT = st.sampled_from(
    [
        {},
        {"model-a": arm(0), "model-b": arm(0)},
        {"model-a": arm(300, 3, ms=MIX), "model-b": arm(300, 2, ms=MIX)},
        {"model-a": arm(3000, 30, ms=MIX), "model-b": arm(3000, 600, ms={300: 1, 900: 1})},
    ]
)
PAST = PastStage(
    id="e1",
    weights={"model-a": 9000, "model-b": 1000},
    evidence=pack({"model-a": arm(900, 9, ms=MIX), "model-b": arm(100, 1, ms=MIX)}),
    edges={"latency_p99": (300.0,)},
)
MARK = Mark(number=3, at=START + timedelta(seconds=60), evidence=pack({"model-a": arm(0), "model-b": arm(0)}))
MEMORIES = st.sampled_from(
    [
        Memory(),
        Memory(past=(PAST,)),
        Memory(past=(PAST,), marks=(MARK,), marked=3, looks=(Look(fraction=0.2, z=1.25),)),
    ]
)


@given(experiments(), PRESENT, MEMORIES)
@settings(max_examples=60, deadline=None)
def test_inputs_survive_json_and_decide_the_same_again(subject: Experiment, present: Evidence, memory: Memory) -> None:
    inputs = _inputs(subject, present, memory)
    found = deliberate(inputs)
    assert found == deliberate(inputs, present)
    bare = inputs.model_copy(update={"evidence": ""})
    plain = json.loads(json.dumps(recorded(bare, present)))
    kept = Inputs.model_validate(plain)
    assert kept.experiment == subject.model_copy(update={"salt": subject.hash_salt})
    assert kept.model_copy(update={"experiment": subject, "memory": memory}) == inputs
    entry = decision_entry("e2", "0", found.situation, found.decision, present, inputs.now)
    again = inputs_of(entry.model_copy(update={"inputs": plain}), {"e1": PAST.evidence})
    repeated = deliberate(again)
    assert repeated.decision == found.decision
    assert repeated.memory == found.memory
    assert repeated.situation.judgements == found.situation.judgements
    assert repeated.situation.goal == found.situation.goal


def test_nothing_is_judged_before_there_is_evidence_or_where_nobody_moves() -> None:
    present = {"model-a": arm(300), "model-b": arm(300, 300)}
    subject = experiment()
    state = adopt(subject, Phase.PROGRESSING, "s", START)
    for changes in (
        {"began": None},
        {"state": state.model_copy(update={"phase": Phase.MANUAL})},
        {"state": state.model_copy(update={"phase": Phase.PROMOTED})},
        {"state": state.model_copy(update={"stage": Stage(id="s", weight=0, started_at=START)})},
    ):
        found = deliberate(_inputs(subject, present, **changes))
        assert found.situation.judgements == ()
        assert found.situation.balance == BALANCED
        assert found.memory == Memory()
        assert found.decision.kind is Kind.HOLD or found.decision.cause is Cause.STARTING
    assert deliberate(_inputs(subject, present)).decision.cause is Cause.HARMFUL


def test_the_controls_quantile_is_taken_once_when_enough_is_known_and_stays() -> None:
    subject = experiment(rollout={"guardrails": [{"metric": "latency_p95", "max_increase": "20%", "relative": True}]})
    few = {"model-a": arm(EDGE_SAMPLE - 1, ms=100), "model-b": arm(100, ms=100)}
    assert deliberate(_inputs(subject, few)).memory.edges == {}
    enough = {"model-a": arm(EDGE_SAMPLE, ms=100), "model-b": arm(100, ms=100)}
    memory = deliberate(_inputs(subject, enough)).memory
    (edge,) = memory.edges["latency_p95"]
    assert 100 <= edge <= 110
    slower = {"model-a": arm(5000, ms=400), "model-b": arm(100, ms=100)}
    assert deliberate(_inputs(subject, slower, memory)).memory.edges == memory.edges


def test_the_next_stage_takes_its_limits_from_the_stage_before() -> None:
    subject = experiment(rollout={"guardrails": [{"metric": "latency_p95", "max_increase": "20%", "relative": True}]})
    present = {"model-a": arm(1000, ms=100), "model-b": arm(1000, ms=100)}
    inputs = _inputs(subject, present)
    memory = after_stage(deliberate(inputs).memory, inputs.state, "d", present)
    assert (memory.edges, memory.marks, memory.looks) == ({}, (), ())
    assert [stage.id for stage in memory.past] == ["d"]
    assert memory.marked > 0
    later = {"model-a": arm(1000, ms=900), "model-b": arm(10, ms=900)}
    (edge,) = deliberate(_inputs(subject, later, memory)).memory.edges["latency_p95"]
    assert 100 <= edge <= 110
    assert after_stage(memory, inputs.state, "e", {}).past == memory.past


def test_the_brake_comes_first_and_only_what_can_be_judged_is() -> None:
    relative = {"metric": "latency_mean", "max_increase": "20%", "relative": True}
    subject = experiment(rollout={"guardrails": [{"metric": "error_rate", "max": "50%"}, relative]})
    present = {"model-a": arm(900, ms=MIX), "model-b": arm(100, 30, ms=MIX)}
    found = deliberate(_inputs(subject, present))
    assert [item.kind for item in found.situation.judgements] == ["brake", "max", "max_increase"]
    assert found.decision.cause is Cause.HARMFUL
    alone = experiment(weight=100, rollout={"guardrails": [{"metric": "error_rate", "max": "50%"}, relative]})
    kinds = [item.kind for item in deliberate(_inputs(alone, present)).situation.judgements]
    assert "max_increase" not in kinds
