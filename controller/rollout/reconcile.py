"""One tick's work on every experiment: evidence, verdicts, decision, and carrying it out.

Called by :mod:`controller.loop` in a worker thread, with what the Envoys said and the time. What goes wrong with one
experiment is reported and leaves the others alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

from abmesh.experiment.errors import AbmeshError, DocumentError, StateError, StoreError
from abmesh.experiment.model import Experiment
from abmesh.experiment.store import Snapshot, format_generation
from controller.decision.deciding import Deliberation, Inputs, after_stage, deliberate, recorded
from controller.decision.history import Evidence, Memory
from controller.decision.policy import Decision, Situation
from controller.decision.warmup import Warmups, target_of
from controller.records import (
    Cause,
    DecisionRecord,
    ExperimentState,
    Intent,
    JournalEntry,
    Kind,
    Phase,
    Stage,
    adopt,
)
from controller.rollout.collect import Collector, evidence_of
from controller.rollout.commit import Change, Committer, SupersededError
from controller.rollout.tick import Outcome, Report, Tick, decision_entry, refused_entry
from controller.sources.base import Observation
from controller.state.documents import Documents
from controller.state.evidence import EvidenceStore, Live
from controller.state.journal import Journal, Pace
from controller.state.states import StateStore

log = logging.getLogger("abmesh.controller")


class Reconciler:
    """Judges, decides and applies.

    Args:
        states: where rollouts stand.
        journal: where decisions go.
        live: where evidence is kept between processes.
        documents: where the document is.
        settle: how long new weights need until every server and Envoy serves them.
        new_id: makes the ids of decisions.
    """

    def __init__(
        self,
        *,
        states: StateStore,
        journal: Journal,
        live: EvidenceStore,
        documents: Documents,
        settle: timedelta,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._states = states
        self._journal = journal
        self._collector = Collector(live, settle)
        self._documents = documents
        self._new_id = new_id
        self._committer = Committer(states, journal, documents)
        self._pace = Pace()
        self._failures: dict[str, str] = {}

    def reconcile(
        self, observations: Sequence[Observation], at: datetime, now: datetime, warmups: Warmups | None = None
    ) -> Report:
        """Deal with every experiment that has a rollout.

        Args:
            observations: one of each Envoy.
            at: when they were asked.
            now: when they had answered.
            warmups: how far they are; without, no warm-up listener is known.

        Raises:
            StateError: the state cannot be read; nothing was done.
        """
        states = self._states.read().experiments
        tick = Tick(observations, at, now, warmups or Warmups())
        try:
            snapshot = self._documents.read()
        except (DocumentError, StoreError) as error:
            return self._refused(states, str(error), tick)
        outcomes: list[Outcome] = []
        failures: dict[str, str] = {}
        superseded: list[str] = []
        for experiment in snapshot.document.experiments:
            if experiment.rollout is None:
                continue
            try:
                outcomes.append(self._reconcile_one(snapshot, experiment, states.get(experiment.name), tick))
            except SupersededError as error:
                log.info("%s: %s; deciding again at the next tick", experiment.name, error)
                superseded.append(experiment.name)
            except AbmeshError as error:
                failures[experiment.name] = str(error)
            except Exception as error:
                log.exception("%s: this is a bug in abmesh", experiment.name)
                failures[experiment.name] = repr(error)
        for name, reason in failures.items():
            if self._failures.get(name) != reason:
                log.error("%s: %s", name, reason)
        self._failures = failures
        every = snapshot.document.experiments
        return Report(snapshot.generation, "", tuple(outcomes), failures, tuple(superseded), every)

    def _reconcile_one(
        self, snapshot: Snapshot, experiment: Experiment, state: ExperimentState | None, tick: Tick
    ) -> Outcome:
        name = experiment.name
        if state is None:
            state = self._first_state(experiment, tick.now)
        elif state.intent is not None:
            log.warning("%s: finishing %s, which was cut short", name, state.intent.entry.kind)
            try:
                recovered = self._committer.recover(name, tick.now)
            except StateError:
                self._guard_while_pending(name, state, state.intent, tick)
                raise
            assert recovered is not None
            state, snapshot = recovered, self._documents.read()
            experiment = snapshot.document.experiment(name)
            if experiment.rollout is None:
                raise SupersededError("the rollout was taken out of the document")
        state = self._mind_the_clock(name, state, tick.now)
        live = self._collector.collect(state, experiment.name, tick.observations, tick.at)
        evidence = evidence_of(experiment, live)
        inputs = _inputs(experiment, state, live, tick)
        found = deliberate(inputs, evidence)
        decision, memory = found.decision, found.memory
        if decision.kind is Kind.HOLD and decision.phase is state.phase:
            made = self._hold(snapshot, found, inputs, evidence)
        else:
            before = state
            entry = self._entry(snapshot, found, inputs, evidence)
            state = self._apply(found.situation, decision, entry, tick.now)
            made = state.decision or entry.decision
            if state.stage.id == entry.id:
                memory = after_stage(memory, before, entry.id, evidence)
            elif state.stage.id != before.stage.id:
                memory = Memory()
        kept = replace(live, decision=made, memory=memory, requests=found.situation.requests)
        self._collector.keep(name, state, kept)
        situation, warms = found.situation, target_of(experiment, state)
        return Outcome(name, state, state.weights, made, situation.judgements, situation.balance, warms)

    def _hold(self, snapshot: Snapshot, found: Deliberation, inputs: Inputs, evidence: Evidence) -> DecisionRecord:
        """Do nothing, and write that down if it is new or was long ago."""
        decision, name, now = found.decision, inputs.experiment.name, inputs.now
        if not self._pace.due(name, decision.kind, decision.cause, decision.phase, now):
            return DecisionRecord(
                id=self._new_id(), kind=decision.kind, cause=decision.cause, reason=decision.reason, at=now
            )
        entry = self._entry(snapshot, found, inputs, evidence)
        self._journal.append(entry, durable=False)
        self._pace.written(name, decision.kind, decision.cause, decision.phase, now)
        log.info("%s: hold: %s", name, decision.reason)
        return entry.decision

    def _entry(self, snapshot: Snapshot, found: Deliberation, inputs: Inputs, evidence: Evidence) -> JournalEntry:
        """The decision with everything that it was made of, for the journal."""
        generation = format_generation(snapshot.generation)
        entry = decision_entry(self._new_id(), generation, found.situation, found.decision, evidence, inputs.now)
        return entry.model_copy(update={"inputs": recorded(inputs, evidence)})

    def _first_state(self, experiment: Experiment, now: datetime) -> ExperimentState:
        """The state of a rollout that is new, or whose state was lost."""
        name, stage_id = experiment.name, self._new_id()
        state = adopt(experiment, Phase.PROGRESSING, stage_id, now)
        if self._journal.knows(name):
            reason = (
                f"the journal knows {name}, but its state is gone from {self._states.path}; nothing moves until "
                f"abmesh resume starts a stage at the weights as they stand"
            )
            lost = DecisionRecord(id=stage_id, kind=Kind.HOLD, cause=Cause.STATE_LOST, reason=reason, at=now)
            state = state.model_copy(update={"phase": Phase.MANUAL, "decision": lost})
            log.warning("%s: %s", name, reason)
        self._committer.put(name, None, state)
        return state

    def _mind_the_clock(self, name: str, state: ExperimentState, now: datetime) -> ExperimentState:
        """A stage that began in the future would never end: the clock was set back, so it begins now."""
        if state.stage.started_at <= now:
            return state
        log.warning("%s: the clock was set back behind the stage's start; the stage's age counts from now", name)
        corrected = state.model_copy(update={"stage": state.stage.model_copy(update={"started_at": now})})
        self._committer.put(name, state, corrected)
        return corrected

    def _apply(self, situation: Situation, decision: Decision, entry: JournalEntry, now: datetime) -> ExperimentState:
        """Carry out a decision that changes something."""
        experiment, state = situation.experiment, situation.state
        after = _after(state, decision, entry, now)

        def plan(present: Snapshot, known: ExperimentState | None) -> Change:
            if known != state:
                raise SupersededError("the state changed while deciding")
            if present.document.experiment(experiment.name) != experiment:
                raise SupersededError("the document changed while deciding")
            return Change(state, after, entry)

        try:
            changed = self._committer.change(experiment.name, plan, now)
        except SupersededError:
            raise
        except StateError as error:
            if decision.kind is Kind.ROLLBACK:
                self._roll_back_regardless(experiment, entry, error)
            raise
        log.info("%s: %s: %s", experiment.name, changed.phase, entry.reason)
        self._pace.written(experiment.name, entry.kind, entry.cause, changed.phase, now)
        return changed

    def _guard_while_pending(self, name: str, state: ExperimentState, pending: Intent, tick: Tick) -> None:
        """Roll back for harm although an earlier change cannot be finished, because its record cannot be kept."""
        snapshot = self._documents.read()
        experiment = snapshot.document.experiment(name)
        standing = _standing(state, pending, experiment)
        if experiment.rollout is None or standing is None:
            return
        live = self._collector.collect(standing, name, tick.observations, tick.at)
        evidence = evidence_of(experiment, live)
        inputs = _inputs(experiment, standing, live, tick)
        found = deliberate(inputs, evidence)
        with suppress(StateError):  # It is in memory all the same, and the disk's failure is about to be told.
            self._collector.keep(name, standing, replace(live, memory=found.memory))
        if found.decision.cause is Cause.HARMFUL:
            entry = self._entry(snapshot, found, inputs, evidence)
            log.error("%s: rolling back although %s cannot be finished", name, pending.entry.kind)
            change = Change(standing, _after(standing, found.decision, entry, tick.now), entry)
            self._committer.roll_back_instead(name, pending, change, tick.now)

    def _roll_back_regardless(self, experiment: Experiment, entry: JournalEntry, error: StateError) -> None:
        """Protect users although the state cannot be kept (a full disk): a rollback needs nothing but the document."""
        log.error("%s: rolling back although the state cannot be kept: %s", experiment.name, error)
        present = self._documents.read()
        if present.document.experiment(experiment.name).weights == entry.weights_before:
            self._documents.write_weights(experiment.name, entry.weights_after, based_on=present.generation)

    def _refused(self, states: Mapping[str, ExperimentState], error: str, tick: Tick) -> Report:
        """Hold everything that is under way, because weights can only be written into a document that is valid."""
        outcomes = []
        for name, state in states.items():
            if state.phase.finished:
                continue
            entry = refused_entry(self._new_id(), name, state, error, tick)
            if self._pace.due(name, entry.kind, entry.cause, entry.phase, tick.now):
                self._journal.append(entry, durable=False)
                self._pace.written(name, entry.kind, entry.cause, entry.phase, tick.now)
            outcomes.append(Outcome(name, state, state.weights, entry.decision))
        return Report(None, error, tuple(outcomes))


def _inputs(experiment: Experiment, state: ExperimentState, live: Live, tick: Tick) -> Inputs:
    """What a decision is made of, but for the present stage's evidence, which is packed only where it is kept."""
    return Inputs(
        experiment=experiment,
        state=state,
        memory=live.memory,
        began=None if live.window is None else live.window.since,
        envoys=tick.coverage.total,
        absent=tick.coverage.absent,
        warmup=tick.warmups.of(target_of(experiment, state)),
        at=tick.at,
        now=tick.now,
    )


def _after(state: ExperimentState, decision: Decision, entry: JournalEntry, now: datetime) -> ExperimentState:
    """The state that a decision leads to; other weights begin another stage."""
    stage = state.stage
    weight = entry.weights_after.get(state.candidate, 0)
    if weight != stage.weight:
        stage = Stage(id=entry.id, weight=weight, started_at=now)
    return state.model_copy(
        update={"phase": decision.phase, "weights": entry.weights_after, "stage": stage, "decision": entry.decision}
    )


def _standing(state: ExperimentState, pending: Intent, experiment: Experiment) -> ExperimentState | None:
    """The state that the document's weights belong to, on either side of a pending change; None if on neither."""
    if experiment.weights == pending.after.weights:
        return pending.after
    if experiment.weights == pending.before:
        return state.model_copy(update={"intent": None})
    return None
