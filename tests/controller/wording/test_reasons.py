from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from abmesh.analysis.replay import replay
from controller.codec import entries
from controller.decision.policy import Decision, Situation
from controller.decision.probes import Probe
from controller.decision.verdicts import GoalJudgement, GoalVerdict, Judgement, Verdict
from controller.decision.warmup import Progress, WarmupResult, WarmupState
from controller.evidence.coverage import Coverage
from controller.records import Cause, Kind, Phase, adopt
from controller.state.journal import read
from controller.wording.reasons import reason
from tests.controller.support import DOCUMENT, START, experiment, serve_and_tick, world

GOAL = {"metric": "latency_mean", "increase": False, "planned_requests": 1000}
ELSEWHERE = {Cause.STATE_LOST, Cause.DOCUMENT_REFUSED, Cause.OPERATOR}
"""Causes that no policy decides for; their sentences are made where they arise."""


def _situation(**changes: Any) -> Situation:
    subject = experiment(
        weight=50,
        rollout={"mode": "experiment", "steps": [50], "goal": GOAL, "warmup": {"path": "/v1/x"}},
    )
    assert subject.rollout is not None
    rail = subject.rollout.guardrails[0]
    fields: dict[str, Any] = {
        "experiment": subject,
        "state": adopt(subject, Phase.PROGRESSING, "s", START),
        "judgements": (
            Judgement("error_rate", "max", Verdict.HARMFUL, 0.1, 0.05, n=400, alpha_harm=0.01, guardrail=rail),
            Judgement("error_rate", "max", Verdict.INCONCLUSIVE, 0.1, 0.05, n=400, guardrail=rail),
            Judgement("error_rate", "max", Verdict.ERROR, guardrail=rail),
        ),
        "requests": 400,
        "collecting": True,
        "coverage": Coverage(2, (("http://e", "no answer within 2 s"),)),
        "goal": GoalJudgement("latency_mean", GoalVerdict.OPEN, 90.0, 100.0, 400, fraction=0.4),
        "probe": Probe(variant="model-a", at=START, failed=1, problem="http://m: status 503"),
        "warmup": WarmupResult(WarmupState.GOING, subject.rollout.warmup, Progress(listeners=1)),  # type: ignore[arg-type]
        **changes,
    }
    return Situation(**fields)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause not in ELSEWHERE])
@pytest.mark.parametrize("kind", [Kind.HOLD, Kind.ROLLBACK])
def test_every_cause_has_a_sentence_without_a_full_stop(cause: Cause, kind: Kind) -> None:
    obstacle = Decision(Kind.HOLD, Cause.MIN_REQUESTS, Phase.PROGRESSING) if cause is Cause.TIMEOUT else None
    decision = Decision(kind, cause, Phase.PROGRESSING, target=1000, obstacle=obstacle)
    found = reason(decision, _situation(), START + timedelta(minutes=3))
    assert len(found.split()) >= 3
    assert not found.endswith(".")
    assert "None" not in found
    assert "  " not in found


def test_a_stage_that_took_too_long_names_what_kept_it() -> None:
    obstacle = Decision(Kind.HOLD, Cause.MIN_REQUESTS, Phase.PROGRESSING)
    decision = Decision(Kind.HOLD, Cause.TIMEOUT, Phase.PROGRESSING, obstacle=obstacle)
    found = reason(decision, _situation(), START + timedelta(hours=2))
    assert "exceeded its max_duration of 1h" in found
    assert "400 of at least 100 requests" in found


def test_rewording_everything_breaks_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with every sentence replaced by another, replayed with today's words: the same decisions."""

    def reworded(*_: object) -> str:
        return "quite another sentence"

    with monkeypatch.context() as patch:
        for name in ("reason", "judgement_text", "goal_text", "sample_ratio_text", "paradox_text"):
            patch.setattr(entries, name, reworded)
        subject = world(
            tmp_path,
            DOCUMENT.replace(
                "      guardrails:", "      goal: {metric: latency_mean, increase: false}\n      guardrails:"
            ),
        )
        serve_and_tick(subject, 20, good=70)
        serve_and_tick(subject, 5, good=20, bad=30)
    journal = read(subject.folder / "journal.jsonl")
    assert {entry.reason for entry in journal} == {"quite another sentence"}
    assert {Kind.ADVANCE, Kind.ROLLBACK} <= {entry.kind for entry in journal}
    found = list(replay(journal))
    assert [item.differences for item in found if item.differences] == []
    assert not any(item.skipped for item in found)


def test_a_changed_number_is_still_found(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 16)
    plain = [json.loads(entry.model_dump_json()) for entry in subject.journal()]
    passed = next(entry for entry in plain if entry["cause"] == "passed")
    passed["judgements"][0]["limit"] = 0.5
    path = tmp_path / "changed.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in plain))
    differing = [item.entry.id for item in replay(read(path)) if item.differences]
    assert differing == [passed["id"]]
