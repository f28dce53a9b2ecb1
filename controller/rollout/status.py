"""The status of every rollout, read without taking a lock. Called by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from abmesh.experiment.errors import AbmeshError, DocumentError, StateError, StoreError
from abmesh.experiment.model import Experiment
from abmesh.experiment.store import format_generation
from abmesh.mesh import parts
from controller.records import Cause, DecisionRecord, ExperimentState, Remark
from controller.rollout.files import Files
from controller.rollout.place import Place, Unseen
from controller.settings import Settings
from controller.state.evidence import StageEvidence
from controller.state.lease import Leader
from controller.state.states import States
from controller.wording.leader import leader_stalled


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """The status of one experiment.

    Attributes:
        experiment: its name.
        candidate: the rollout's candidate; None without a rollout.
        weights: basis points by variant, from the document, or the last known ones if that is refused.
        phase: ``progressing``, ``paused``, ``manual``, ``promoted``, ``rolled_back``, ``concluded``; ``new`` if no
            controller has seen it yet; ``none`` without a rollout; ``unknown`` if the state cannot be read.
        weight: the candidate's weight in basis points.
        step: how many of the rollout's steps the weight has reached.
        steps: how many steps the rollout has.
        stage_age: how long the candidate has had this weight; None without a state.
        requests: the candidate's requests in this stage's evidence.
        min_requests: how many the stage needs.
        generation: of the document, as 13 hex digits; None if it is refused.
        decision: the last decision.
        pending: whether a change was begun and not finished.
        config_error: why the document is refused; empty if it is valid.
        state_error: why the state cannot be read; empty if it can.
        leader: the controller that leads, as ``PID on HOST``; None if none runs.
        leader_seconds: since its last tick ended, or since it began to lead; None if none runs.
        leader_error: what is wrong with it: it hangs, or its last tick failed.
        failure: why the last tick could not handle this experiment; empty if it could.
        stale: Envoys that must be rendered again, with the parts of the document that have changed since.
        unknown: Envoys that do not say what they were rendered from.
        remarks: what the last tick found beside its decision: a broken control, guardrails that only watch.
        notes: what else there is to say, in a cluster.
        unseen: what of all this could not be read, and why; in a cluster, which right is missing.
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
    leader_seconds: float | None = None
    leader_error: str = ""
    failure: str = ""
    stale: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = ()
    notes: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Context:
    generation: str | None
    config_error: str
    states: States
    state_error: str
    leader: Leader | None
    place: Place
    now: datetime
    unseen: dict[str, None] = field(default_factory=dict)

    def live(self, name: str) -> StageEvidence | None:
        """What was counted; None also where it cannot be read, which is noted."""
        try:
            return self.place.evidence.read(name)
        except AbmeshError as error:
            self.unseen[f"what was counted: {error}"] = None
            return None


def read_status(settings: Settings, *, now: datetime | None = None) -> list[ExperimentStatus]:
    """The status of every experiment of a document; see :func:`status_of`."""
    return status_of(Files(settings), now=now)


def status_of(place: Place, *, now: datetime | None = None) -> list[ExperimentStatus]:
    """Read the status of every experiment, in the document's order; if that is refused, of every one with a state.

    In a cluster, Experiments that are not accepted come last.

    Raises:
        DocumentError: the document is refused and there is no state to show instead.
        StoreError: the document cannot be read and there is no state to show instead.
        KubeError: the Experiments of a cluster cannot be read.
    """
    states, state_error, who = States(), "", None
    unseen: dict[str, None] = {}
    try:
        states = place.states()
        who = place.leader()
    except StateError as error:
        state_error = str(error)
    except Unseen as error:
        unseen[str(error)] = None
    moment = now or datetime.now(UTC)
    try:
        snapshot = place.snapshot()
    except (DocumentError, StoreError) as error:
        if not states.experiments:
            raise
        context = _Context(None, str(error), states, state_error, who, place, moment, unseen)
        return [_status(name, None, state, context) for name, state in states.experiments.items()]
    generation = format_generation(snapshot.generation)
    context = _Context(generation, "", states, state_error, who, place, moment, unseen)
    every = snapshot.document.experiments
    made = [_status(item.name, item, states.experiments.get(item.name), context) for item in every]
    for name, why in snapshot.refused.items():
        found = _status(name, None, states.experiments.get(name), context)
        made.append(replace(found, config_error=f"{name} is not accepted: {why}"))
    made = [replace(item, unseen=tuple(context.unseen)) for item in made]
    envoys = place.renderings()
    if not envoys:
        return made
    today = parts.digests(snapshot.document)
    compared = {envoy: parts.stale(found, today) for envoy, found in envoys.items() if found is not None}
    unknown = tuple(envoy for envoy, found in envoys.items() if found is None)
    return [replace(item, stale=_concerning(item.experiment, compared), unknown=unknown) for item in made]


def _concerning(experiment: str, stale: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The changed parts of the whole document and of one experiment, by Envoy."""
    chosen = {
        envoy: tuple(name for name in names if "/" not in name or name.rpartition("/")[0] == experiment)
        for envoy, names in stale.items()
    }
    return {envoy: names for envoy, names in chosen.items() if names}


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
    live = context.live(name) if state else None
    if live is not None and state is not None and live.stage != state.stage.id:
        live = None
    damage = "" if candidate is None else context.state_error or context.states.damage(name)
    absent = "none" if candidate is None else "unknown" if damage else "new"
    heartbeat = context.leader.heartbeat if context.leader else None
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
        state_error=damage,
        leader=context.leader.process if context.leader else None,
        leader_seconds=context.leader.age(context.now) if context.leader else None,
        leader_error=_leader_error(context.leader, context.now),
        remarks=live.remarks if live and state and not state.phase.finished else (),
        failure=heartbeat.failures.get(name, "") if heartbeat else context.place.failure(name),
        notes=context.place.notes(name),
    )


def _leader_error(found: Leader | None, now: datetime) -> str:
    if found is None:
        return ""
    if found.stalled(now):
        return leader_stalled(found.process, found.age(now), found.intruder)
    return f"the last tick failed: {found.heartbeat.error}" if found.heartbeat and found.heartbeat.error else ""


def _latest(state: ExperimentState | None, last: DecisionRecord | None) -> DecisionRecord | None:
    """The last decision; for a finished rollout, the one that finished it, because later holds only repeat that.

    Except that a promoted candidate fails.
    """
    changed = state.decision if state else None
    fails = last is not None and last.cause in (Cause.PROBING, Cause.NO_WAY_BACK)
    if state is not None and state.phase.finished and changed is not None and not fails:
        return changed
    if changed is None or last is None:
        return last or changed
    return last if last.at >= changed.at else changed
