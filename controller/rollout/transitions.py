"""What a decision makes of a rollout's state. Pure; called by :mod:`controller.rollout.reconcile`."""

from __future__ import annotations

from datetime import datetime

from abmesh.experiment.model import Experiment
from controller.records import ExperimentState, Intent, JournalEntry, Stage


def after(state: ExperimentState, entry: JournalEntry, now: datetime) -> ExperimentState:
    """The state that a decision leads to; other weights begin another stage."""
    stage = state.stage
    weight = entry.weights_after.get(state.candidate, 0)
    if weight != stage.weight:
        stage = Stage(id=entry.id, weight=weight, started_at=now)
    return state.model_copy(
        update={"phase": entry.phase, "weights": entry.weights_after, "stage": stage, "decision": entry.decision}
    )


def at_weights(state: ExperimentState, pending: Intent, experiment: Experiment) -> ExperimentState | None:
    """The state that the document's weights belong to, before or after a pending change; None if to neither."""
    if experiment.weights == pending.after.weights:
        return pending.after
    if experiment.weights == pending.before:
        return state.model_copy(update={"intent": None})
    return None
