"""What an edit of a spec means for its rollout where the weights alone do not tell. Pure.

A person who edits the weights takes the rollout over, even if they wrote the very weights that are in force, and may
edit them again: servers serve them at once, and the status has to follow. Another text in ``rollout.run`` begins a new
run at the spec's weights: under GitOps, where the spec's weights stay what they were before the last run, it is how the
next one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from abmesh.experiment.model import Experiment
from abmesh.experiment.store import Snapshot, format_generation
from abmesh.kube.status import points
from controller.cluster.objects import Thing
from controller.cluster.status import PHASES, spec_weights, status_of, unseen_edit
from controller.records import Cause, ExperimentState, JournalEntry, Kind, Phase, Stage, adopt
from controller.rollout.transitions import after
from controller.state.transition import Change, SupersededError
from controller.wording.mishaps import edited_again as again_text
from controller.wording.mishaps import edited_in_place as edited_text
from controller.wording.mishaps import run_begun


def run_of(thing: Thing) -> str | None:
    """The run that an Experiment's spec asks for; None if it does not say."""
    found = (thing["spec"].get("rollout") or {}).get("run")
    return None if found is None else str(found)


def edited_in_place(thing: Thing) -> bool:
    """Whether somebody wrote into the spec the weights that are in force, while the controller moved them."""
    status = status_of(thing)
    moving = status.get("phase") != PHASES[Phase.MANUAL] and "stage" in status
    return moving and unseen_edit(thing) and points(status.get("weights") or {}) == spec_weights(thing)


def edited_again(thing: Thing) -> bool:
    """Whether somebody edited the weights of a rollout that is manual already, on which nobody decides any more."""
    status = status_of(thing)
    return status.get("phase") == PHASES[Phase.MANUAL] and "stage" in status and unseen_edit(thing)


def taken_by_hand(
    snapshot: Snapshot, experiment: Experiment, state: ExperimentState, entry_id: str, now: datetime
) -> Change:
    """The rollout is manual from now on, at the weights that are in force."""
    if state.phase is Phase.MANUAL:
        text = again_text(experiment.weights)
    elif experiment.weights == state.weights:
        text = edited_text()
    else:
        raise SupersededError("the weights were edited again")
    entry = _entry(snapshot, experiment, state, entry_id, now, Cause.WEIGHTS_EDITED, Phase.MANUAL, text)
    return Change(state, after(state, entry, now), entry)


def with_new_run(
    snapshot: Snapshot,
    experiment: Experiment,
    state: ExperimentState | None,
    weights: Mapping[str, int],
    run: str | None,
    entry_id: str,
    now: datetime,
) -> Change:
    """A new run of the rollout begins at the spec's weights."""
    before = state or adopt(experiment, Phase.PROGRESSING, entry_id, now)
    entry = _entry(snapshot, experiment, before, entry_id, now, Cause.OPERATOR, Phase.PROGRESSING, run_begun(run))
    entry = entry.model_copy(update={"weights_after": dict(weights), "actor": "operator"})
    adopted = adopt(experiment, Phase.PROGRESSING, entry_id, now)
    stage = Stage(id=entry_id, weight=weights[adopted.candidate], started_at=now)
    begun = adopted.model_copy(update={"weights": dict(weights), "stage": stage, "decision": entry.decision})
    return Change(before, begun, entry)


def _entry(
    snapshot: Snapshot,
    experiment: Experiment,
    state: ExperimentState,
    entry_id: str,
    now: datetime,
    cause: Cause,
    phase: Phase,
    text: str,
) -> JournalEntry:
    return JournalEntry(
        id=entry_id,
        at=now,
        experiment=experiment.name,
        actor="controller",
        kind=Kind.HOLD,
        cause=cause,
        reason=text,
        phase_before=state.phase,
        phase=phase,
        weights_before=experiment.weights,
        weights_after=experiment.weights,
        stage=state.stage,
        generation=format_generation(snapshot.generation),
    )
