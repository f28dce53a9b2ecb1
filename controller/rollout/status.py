"""Where every rollout stands, for the command line: plain data, read without disturbing anybody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from abmesh.experiment.errors import DocumentError, StateError, StoreError
from abmesh.experiment.model import Experiment
from abmesh.experiment.store import FileStore, format_generation
from controller.records import DecisionRecord, ExperimentState
from controller.settings import Settings
from controller.state.evidence import EvidenceStore
from controller.state.lease import leader
from controller.state.states import StateStore


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """Where one experiment stands.

    Attributes:
        experiment: its name.
        candidate: of its rollout; None without one.
        weights: basis points by variant: the document's, or the last known if it is refused.
        phase: ``progressing``, ``paused``, ``manual``, ``promoted``, ``rolled_back``, ``concluded``; ``new`` if no
            controller has dealt with it yet; ``none`` without a rollout; ``unknown`` if the state cannot be read.
        weight: the candidate's, in basis points.
        step: how many of the steps its weight has reached.
        steps: how many there are.
        stage_age: how long it has had this weight; None before there is a state.
        requests: of the candidate in this stage's evidence.
        min_requests: how many the stage needs.
        generation: of the document, as 13 hex digits; None if it is refused.
        decision: the last one.
        pending: whether a change was begun and is not complete.
        config_error: why the document is refused; empty if it is not.
        state_error: why the state cannot be read; empty if it can.
        leader: the controller that acts, as ``PID on HOST``; None if none runs.
    """

    experiment: str
    candidate: str | None
    weights: dict[str, int]
    phase: str
    weight: int = 0
    step: int = 0
    steps: int = 0
    stage_age: timedelta | None = None
    requests: int = 0
    min_requests: int = 0
    generation: str | None = None
    decision: DecisionRecord | None = None
    pending: bool = False
    config_error: str = ""
    state_error: str = ""
    leader: str | None = None


@dataclass(frozen=True, slots=True)
class _Context:
    generation: str | None
    config_error: str
    state_error: str
    leader: str | None
    live: EvidenceStore
    now: datetime


def read_status(settings: Settings, *, now: datetime | None = None) -> list[ExperimentStatus]:
    """Where every experiment of the document stands, in its order; if it is refused, every one that is remembered.

    Raises:
        DocumentError: the document is refused and no rollout is remembered.
        StoreError: the document cannot be read and no rollout is remembered.
    """
    folder = settings.state_folder
    states: dict[str, ExperimentState] = {}
    state_error, who = "", None
    try:
        states = StateStore(folder).read().experiments
        who = leader(folder)
    except StateError as error:
        state_error = str(error)
    moment = now or datetime.now(UTC)
    try:
        snapshot = FileStore(settings.config).read()
    except (DocumentError, StoreError) as error:
        if not states:
            raise
        context = _Context(None, str(error), state_error, who, EvidenceStore(folder), moment)
        return [_status(name, None, state, context) for name, state in states.items()]
    context = _Context(format_generation(snapshot.generation), "", state_error, who, EvidenceStore(folder), moment)
    return [_status(item.name, item, states.get(item.name), context) for item in snapshot.document.experiments]


def _status(
    name: str, experiment: Experiment | None, state: ExperimentState | None, context: _Context
) -> ExperimentStatus:
    rollout = experiment.rollout if experiment else None
    weights = dict(experiment.weights) if experiment else dict(state.weights) if state else {}
    if experiment is not None and rollout is None:
        state = None
    candidate = rollout.candidate if rollout else state.candidate if state else None
    steps = rollout.steps if rollout else state.steps if state else ()
    weight = weights.get(candidate, 0) if candidate else 0
    live = context.live.read(name) if state else None
    if live is not None and state is not None and live.stage != state.stage.id:
        live = None
    absent = "none" if candidate is None else "unknown" if context.state_error else "new"
    return ExperimentStatus(
        experiment=name,
        candidate=candidate,
        weights=weights,
        phase=str(state.phase) if state else absent,
        weight=weight,
        step=sum(step <= weight for step in steps),
        steps=len(steps),
        stage_age=state.stage.age(context.now) if state else None,
        requests=live.requests if live else 0,
        min_requests=rollout.stage.min_requests if rollout else 0,
        generation=context.generation,
        decision=_latest(state, live.decision if live else None),
        pending=state is not None and state.intent is not None,
        config_error=context.config_error,
        state_error=context.state_error,
        leader=context.leader,
    )


def _latest(state: ExperimentState | None, last: DecisionRecord | None) -> DecisionRecord | None:
    """The last decision; of a finished rollout the one that finished it, since all later ones only say so."""
    changed = state.decision if state else None
    if state is not None and state.phase.finished and changed is not None:
        return changed
    if changed is None or last is None:
        return last or changed
    return last if last.at >= changed.at else changed
