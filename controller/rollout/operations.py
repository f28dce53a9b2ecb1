"""What an operator's command does to a rollout, decided by its present state. Pure.

:mod:`controller.rollout.commands` carries it out from the command line, :mod:`controller.rollout.requests` by a request
in a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from abmesh.experiment.errors import RefusedError
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import format_percent
from abmesh.experiment.store import Snapshot, format_generation
from abmesh.experiment.weights import complete, move_candidate
from controller.decision.policy import next_step
from controller.records import Cause, ExperimentState, JournalEntry, Kind, Phase, Stage, Weights, adopt
from controller.state.transition import Change
from controller.wording import commands as wording


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operator's command does to a rollout in its current state.

    Attributes:
        target: the candidate's new weight; None to leave the weights alone.
        new_stage: whether a new stage starts even if the weight stays the same.
        weights: all new weights, in the place of a target.
    """

    kind: Kind
    reason: str
    phase: Phase
    target: int | None = None
    new_stage: bool = False
    weights: Mapping[str, int] | None = None


Decide = Callable[[Experiment, ExperimentState], Operation]
"""Decides on an experiment that has a rollout; raises RefusedError if its state does not allow the command."""


def pausing(by: str) -> Decide:
    """Keep the candidate at its weight until it is resumed."""

    def decide(present: Experiment, state: ExperimentState) -> Operation:
        if state.phase is not Phase.PROGRESSING:
            raise RefusedError(f"cannot pause {present.name}: it is {phase_at_weight(state)}")
        if present.weights != state.weights:
            raise RefusedError(
                f"no need to pause {present.name}: someone edited its weights, so nothing moves until abmesh resume"
            )
        return Operation(Kind.HOLD, wording.paused(state.stage.weight, by), Phase.PAUSED)

    return decide


def resuming(by: str) -> Decide:
    """Continue from the current weights and plan, with a new stage."""

    def decide(present: Experiment, state: ExperimentState) -> Operation:
        edited = present.weights != state.weights
        if state.phase is Phase.PROGRESSING and not edited and _same_plan(present, state):
            raise RefusedError(f"no need to resume {present.name}: it is {phase_at_weight(state)}")
        weight = present.weights[candidate_of(present)]
        return Operation(Kind.HOLD, wording.resumed(weight, by), Phase.PROGRESSING, new_stage=True)

    return decide


def promoting(by: str, *, full: bool) -> Decide:
    """Give the candidate all users and finish the rollout; without ``full``, advance it to its next step."""

    def decide(present: Experiment, state: ExperimentState) -> Operation:
        weight = present.weights[candidate_of(present)]
        if full:
            if state.phase is Phase.PROMOTED and weight == BUCKETS:
                raise RefusedError(f"cannot promote {present.name}: it is {phase_at_weight(state)}")
            reason = wording.promoted(weight, BUCKETS, by)
            return Operation(Kind.COMPLETE, reason, Phase.PROMOTED, BUCKETS)
        assert present.rollout is not None
        target = next_step(present.rollout.steps, weight)
        if target is None or state.phase is Phase.PROMOTED:
            raise RefusedError(
                f"{present.name} has no step after {format_percent(weight)}: it is {phase_at_weight(state)}; to give "
                f"the candidate all users, run abmesh promote without --step"
            )
        return Operation(Kind.ADVANCE, wording.promoted(weight, target, by), Phase.PROGRESSING, target)

    return decide


def rolling_back(by: str) -> Decide:
    """Give all of the candidate's users back to the control and finish the rollout."""

    def decide(present: Experiment, state: ExperimentState) -> Operation:
        weight = present.weights[candidate_of(present)]
        if state.phase is Phase.ROLLED_BACK and weight == 0:
            raise RefusedError(f"cannot roll back {present.name}: it is {phase_at_weight(state)}")
        return Operation(Kind.ROLLBACK, wording.rolled_back(weight, by), Phase.ROLLED_BACK, 0)

    return decide


def setting_weights(by: str, named: Mapping[str, int]) -> Decide:
    """Set weights by hand: the rollout is manual from then on.

    The decision raises UnknownName or WeightsError if the weights do not fit the experiment.
    """

    def decide(present: Experiment, state: ExperimentState) -> Operation:
        weights = complete(present.weights, present.control.name, named)
        if state.phase is Phase.MANUAL and weights == present.weights:
            raise RefusedError(f"no need to set the weights of {present.name}: it is {phase_at_weight(state)}")
        reason = wording.weights_set(weights, by)
        return Operation(Kind.HOLD, reason, Phase.MANUAL, new_stage=True, weights=weights)

    return decide


def with_rollout(snapshot: Snapshot, name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        UnknownName: the document does not have it.
        RefusedError: it has no rollout.
    """
    experiment = snapshot.document.experiment(name)
    if experiment.rollout is None:
        raise RefusedError(f"{name} has no rollout; add one to the document, or set its weights with abmesh weights")
    return experiment


def candidate_of(experiment: Experiment) -> str:
    """The candidate of an experiment that has a rollout."""
    assert experiment.rollout is not None
    return experiment.rollout.candidate


def change_of(
    snapshot: Snapshot,
    experiment: Experiment,
    before: ExperimentState,
    operation: Operation,
    *,
    by: str,
    note: str,
    now: datetime,
    request: str = "",
) -> Change:
    """An operation as a change to carry out.

    Args:
        snapshot: the document.
        experiment: of it.
        before: its state.
        operation: what to do.
        by: who, for the journal.
        note: why, in their words.
        now: the time.
        request: id of the request that it answers; empty for a command of the command line.
    """
    candidate, entry_id = candidate_of(experiment), uuid4().hex
    weights: Weights = dict(operation.weights or experiment.weights)
    if operation.target is not None:
        weights = move_candidate(weights, experiment.control.name, candidate, operation.target)
    entry = JournalEntry(
        id=entry_id,
        at=now,
        experiment=experiment.name,
        actor="operator",
        by=by,
        note=note,
        kind=operation.kind,
        cause=Cause.OPERATOR,
        reason=wording.with_note(operation.reason, note),
        phase_before=before.phase,
        phase=operation.phase,
        weights_before=experiment.weights,
        weights_after=weights,
        stage=before.stage,
        generation=format_generation(snapshot.generation),
    )
    stage = before.stage
    if operation.new_stage or weights[candidate] != stage.weight:
        stage = Stage(id=entry_id, weight=weights[candidate], started_at=now)
    if operation.phase is Phase.PAUSED:
        # Unlike the other commands, a pause does not adopt a plan that was edited in the meantime.
        after = before.model_copy(update={"phase": operation.phase, "decision": entry.decision})
    else:
        after = adopt(experiment, operation.phase, entry_id, now).model_copy(
            update={"weights": weights, "stage": stage, "decision": entry.decision}
        )
    return Change(before, after, entry, request)


def _same_plan(experiment: Experiment, state: ExperimentState) -> bool:
    assert experiment.rollout is not None
    return (experiment.rollout.candidate, experiment.control.name, experiment.rollout.steps) == (
        state.candidate,
        state.control,
        state.steps,
    )


def phase_at_weight(state: ExperimentState) -> str:
    """A phase and the candidate's weight, for messages."""
    return f"{state.phase.replace('_', ' ')} at {format_percent(state.stage.weight)}"
