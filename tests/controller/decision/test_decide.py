from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment.model import Experiment
from abmesh.experiment.secret_source import SecretSource
from controller.codec.entries import decision_entry
from controller.codec.evidence import pack
from controller.codec.inputs import dump_inputs, load_inputs
from controller.decision.decide import EDGE_SAMPLE, Inputs, decide
from controller.decision.history import Checkpoint, Evidence, History, Look, PastStage
from controller.decision.verdicts import AS_PROMISED
from controller.evidence.coverage import Coverage
from controller.records import Cause, ExperimentState, Kind, Phase, Stage, adopt
from tests.controller.decision.support import arm
from tests.controller.support import START, experiment

NAMES = ("model-a", "model-b")
MIX = {80: 40, 100: 40, 150: 15, 300: 5}

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


def _inputs(subject: Experiment, present: Evidence, history: History | None = None, **changes: Any) -> Inputs:
    state: ExperimentState = changes.pop("state", None) or adopt(subject, Phase.PROGRESSING, "s", START)
    fields: dict[str, Any] = {
        "experiment": subject,
        "state": state,
        "history": history or History(),
        "began": START + timedelta(seconds=5),
        "evidence": present,
        "coverage": Coverage(1),
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
    evidence={"model-a": arm(900, 9, ms=MIX), "model-b": arm(100, 1, ms=MIX)},
    edges={"latency_p99": (300.0,)},
)
CHECKPOINT = Checkpoint(3, START + timedelta(seconds=60), {"model-a": arm(0), "model-b": arm(0)})
HISTORIES = st.sampled_from(
    [
        History(),
        History(past=(PAST,)),
        History(past=(PAST,), checkpoints=(CHECKPOINT,), taken=3, looks=(Look(fraction=0.2, z=1.25),)),
    ]
)


@given(experiments(), PRESENT, HISTORIES)
@settings(max_examples=60, deadline=None)
def test_inputs_survive_json_and_decide_the_same_again(
    subject: Experiment, present: Evidence, history: History
) -> None:
    inputs = _inputs(subject, present, history)
    found = decide(inputs)
    entry = decision_entry("e2", "0", inputs, found)
    plain = json.loads(json.dumps(dump_inputs(inputs)))
    assert entry.inputs == plain
    again = load_inputs(entry.model_copy(update={"inputs": plain}), {"e1": pack(PAST.evidence)})
    assert again.experiment == subject.model_copy(update={"salt": subject.hash_salt})
    assert replace(again, experiment=subject) == inputs
    repeated = decide(again)
    assert repeated.decision == found.decision
    assert repeated.history == found.history
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
        found = decide(_inputs(subject, present, **changes))
        assert found.situation.judgements == ()
        assert found.situation.sample_ratio == AS_PROMISED
        assert found.history == History()
        assert found.decision.kind is Kind.HOLD or found.decision.cause is Cause.STARTING
    assert decide(_inputs(subject, present)).decision.cause is Cause.HARMFUL


def test_the_controls_quantile_is_taken_once_when_enough_is_known_and_stays() -> None:
    subject = experiment(rollout={"guardrails": [{"metric": "latency_p95", "max_increase": "20%", "relative": True}]})
    few = {"model-a": arm(EDGE_SAMPLE - 1, ms=100), "model-b": arm(100, ms=100)}
    assert decide(_inputs(subject, few)).history.edges == {}
    enough = {"model-a": arm(EDGE_SAMPLE, ms=100), "model-b": arm(100, ms=100)}
    history = decide(_inputs(subject, enough)).history
    (edge,) = history.edges["latency_p95"]
    assert 100 <= edge <= 110
    slower = {"model-a": arm(5000, ms=400), "model-b": arm(100, ms=100)}
    assert decide(_inputs(subject, slower, history)).history.edges == history.edges


def test_the_next_stage_takes_its_limits_from_the_stage_before() -> None:
    subject = experiment(rollout={"guardrails": [{"metric": "latency_p95", "max_increase": "20%", "relative": True}]})
    present = {"model-a": arm(1000, ms=100), "model-b": arm(1000, ms=100)}
    inputs = _inputs(subject, present)
    history = decide(inputs).history.after_stage(PastStage("d", inputs.state.weights, present))
    assert (history.edges, history.checkpoints, history.looks) == ({}, (), ())
    assert [stage.id for stage in history.past] == ["d"]
    assert history.taken > 0
    later = {"model-a": arm(1000, ms=900), "model-b": arm(10, ms=900)}
    (edge,) = decide(_inputs(subject, later, history)).history.edges["latency_p95"]
    assert 100 <= edge <= 110
    assert history.after_stage(PastStage("e", inputs.state.weights, {})).past == history.past


def test_the_emergency_stop_comes_first_and_only_what_can_be_judged_is() -> None:
    relative = {"metric": "latency_mean", "max_increase": "20%", "relative": True}
    subject = experiment(rollout={"guardrails": [{"metric": "error_rate", "max": "50%"}, relative]})
    present = {"model-a": arm(900, ms=MIX), "model-b": arm(100, 30, ms=MIX)}
    found = decide(_inputs(subject, present))
    assert [item.kind for item in found.situation.judgements] == ["brake", "max", "max_increase"]
    assert found.decision.cause is Cause.HARMFUL
    alone = experiment(weight=100, rollout={"guardrails": [{"metric": "error_rate", "max": "50%"}, relative]})
    kinds = [item.kind for item in decide(_inputs(alone, present)).situation.judgements]
    assert "max_increase" not in kinds


def test_the_journal_keeps_where_a_secret_salt_is_and_not_the_salt() -> None:
    source = SecretSource(file="/run/secrets/salt").holding("s" * 40)
    subject = experiment().model_copy(update={"secret_salt": source})
    inputs = _inputs(subject, {"model-a": arm(300), "model-b": arm(300)}, History())
    plain = json.dumps(dump_inputs(inputs))
    assert "s" * 40 not in plain
    entry = decision_entry("e2", "0", inputs, decide(inputs))
    again = load_inputs(entry.model_copy(update={"inputs": json.loads(plain)}), {})
    assert again.experiment.secret_salt == SecretSource(file="/run/secrets/salt")
    assert decide(again).decision == decide(inputs).decision
