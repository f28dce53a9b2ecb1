"""A decision as the journal's entry: cause and numbers, what they were made of, and all of it in sentences. Pure.

Called by :mod:`controller.rollout.reconcile` to record a decision, and by :mod:`abmesh.analysis.replay` to recompute
one.
"""

from __future__ import annotations

from datetime import datetime

from abmesh.experiment.weights import move_candidate
from controller.codec.inputs import dump_inputs
from controller.codec.outlines import evidence_outline, outline
from controller.decision.decide import Decided, Inputs
from controller.evidence.coverage import Coverage
from controller.records import Cause, ExperimentState, JournalEntry, Kind
from controller.wording.checks import check_text
from controller.wording.control import breach_text
from controller.wording.mishaps import document_refused
from controller.wording.reasons import reason
from controller.wording.verdicts import goal_text, judgement_text, paradox_text, sample_ratio_text


def decision_entry(entry_id: str, generation: str, inputs: Inputs, decided: Decided) -> JournalEntry:
    """The journal's entry of a decision: its cause and numbers, what it was made of, and all of that in sentences."""
    situation, decision = decided.situation, decided.decision
    experiment, state, rollout = situation.experiment, situation.state, situation.rollout
    weights = experiment.weights
    after = weights
    if decision.target is not None:
        after = move_candidate(weights, state.control, state.candidate, decision.target)
    goal = situation.goal
    return JournalEntry(
        id=entry_id,
        at=inputs.now,
        experiment=experiment.name,
        actor="controller",
        kind=decision.kind,
        cause=decision.cause,
        obstacle=None if decision.obstacle is None else decision.obstacle.cause,
        reason=reason(decision, situation, inputs.now),
        phase_before=state.phase,
        phase=decision.phase,
        weights_before=weights,
        weights_after=after,
        stage=state.stage,
        generation=generation,
        evidence={name: evidence_outline(item) for name, item in inputs.evidence.items()},
        judgements=[{**outline(item), "text": judgement_text(item, state)} for item in situation.judgements],
        control=[
            {**outline(item.judgement), "worse": item.worse, "text": breach_text(item, state)}
            for item in situation.control.breaches
        ],
        goal=None if goal is None else {**outline(goal), "text": goal_text(goal, rollout, state)},
        secondary_goals=[
            {**outline(item), "text": goal_text(item, rollout, state)} for item in situation.secondary_goals
        ],
        checks=[{**outline(item), "text": check_text(item)} for item in situation.checks],
        balance={
            **outline(situation.sample_ratio),
            "text": sample_ratio_text(situation.sample_ratio, rollout) if situation.sample_ratio.alarm else "",
        },
        paradoxes=[outline(item) for item in situation.paradoxes],
        warnings=tuple(paradox_text(item, state) for item in situation.paradoxes),
        inputs=dump_inputs(inputs),
        sources=_sources(situation.coverage),
    )


def refused_entry(
    entry_id: str, name: str, state: ExperimentState, error: str, coverage: Coverage, now: datetime
) -> JournalEntry:
    """The journal's entry of a hold because the document is refused."""
    return JournalEntry(
        id=entry_id,
        at=now,
        experiment=name,
        actor="controller",
        kind=Kind.HOLD,
        cause=Cause.DOCUMENT_REFUSED,
        reason=document_refused(error),
        phase_before=state.phase,
        phase=state.phase,
        weights_before=state.weights,
        weights_after=state.weights,
        stage=state.stage,
        generation="",
        sources=_sources(coverage),
    )


def _sources(coverage: Coverage) -> dict[str, object]:
    return {"total": coverage.total, "answered": coverage.answered, "absent": dict(coverage.absent)}
