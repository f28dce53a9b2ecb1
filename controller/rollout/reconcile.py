"""One tick's work on every experiment: collect evidence, decide, and commit the decision.

Called by :mod:`controller.loop` in a worker thread, with the Envoys' samples and the time. A failure in one experiment
is reported and leaves the others alone.
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
from controller.codec.entries import decision_entry
from controller.decision.after_promotion import watched
from controller.decision.checks import Results
from controller.decision.decide import Decided, Inputs, decide
from controller.decision.history import History, PastStage
from controller.decision.probes import Probe
from controller.decision.warmup import Warmups
from controller.records import (
    Cause,
    ExperimentState,
    Intent,
    JournalEntry,
    Kind,
)
from controller.rollout.beginning import Beginning
from controller.rollout.collect import EVERYWHERE, Collector, Earlier
from controller.rollout.guard import Guard
from controller.rollout.holds import Holds
from controller.rollout.serving import Serving
from controller.rollout.tick import Outcome, Tick, TickReport, inputs_of, outcome_of
from controller.rollout.transitions import after, at_weights
from controller.sources.base import Observation
from controller.state.documents import Documents
from controller.state.locks import URGENT_SECONDS, trouble
from controller.state.ports import Evidence, Recorder, StateReader
from controller.state.states import States
from controller.state.transition import Change, SupersededError, Transitions
from controller.wording.remarks import remarks_of

log = logging.getLogger("abmesh.controller")


class Reconciler:
    """Brings every rollout of the document to where its decision puts it.

    Args:
        states: the state of every rollout.
        journal: records decisions.
        evidence: keeps evidence between processes.
        documents: keeps the document.
        transitions: carries out changes.
        settle: how long new weights need until every server and Envoy serves them.
        new_id: makes the ids of decisions.
        attempts: how often to decide in one tick, if somebody changes the experiment meanwhile.
        earlier: tells of a stage whose end was carried out although this process did not hear of it.
        serving: says whether everybody serves an experiment as it is; if None, the settle time alone counts.
    """

    def __init__(
        self,
        *,
        states: StateReader,
        journal: Recorder,
        evidence: Evidence,
        documents: Documents,
        transitions: Transitions,
        settle: timedelta,
        new_id: Callable[[], str] = lambda: uuid4().hex,
        attempts: int = 1,
        earlier: Earlier | None = None,
        serving: Serving | None = None,
    ) -> None:
        self._states = states
        self._journal = journal
        self._collector = Collector(evidence, settle, earlier)
        self._serving = serving
        self._attempts = attempts
        self._documents = documents
        self._new_id = new_id
        self._committer = transitions
        self._first = Beginning(states, journal, transitions, new_id)
        self._guard = Guard(journal=journal, documents=documents, settle=settle, new_id=new_id)
        self._holds = Holds(journal, new_id)
        self._failures: dict[str, str] = {}

    def reconcile(
        self,
        observations: Sequence[Observation],
        at: datetime,
        now: datetime,
        warmups: Warmups | None = None,
        probes: Mapping[str, Probe] | None = None,
        checks: Results | None = None,
    ) -> TickReport:
        """Reconcile every experiment that has a rollout.

        Args:
            observations: one of each Envoy.
            at: when they were asked.
            now: when they had answered.
            warmups: how far they are; None where no warm-up listener is known.
            probes: the last one of each experiment's control, where one was needed.
            checks: the last result of each check, by experiment.

        Raises:
            StateError: the state cannot be read; nothing was done.
        """
        with suppress(StateError):  # a damaged one is told of below; a lock that somebody keeps, too
            if done := self._states.migrate(URGENT_SECONDS):
                log.info("%s", done)
        states = self._states.read()
        tick = Tick(observations, at, now, warmups or Warmups(), probes or {}, checks or {})
        try:
            snapshot = self._documents.read()
        except (DocumentError, StoreError) as error:
            return self._holds.refused(states.experiments, str(error), tick)
        self._journal.keep_within(snapshot.document.journal)
        outcomes: list[Outcome] = []
        failures: dict[str, str] = {}
        superseded: list[str] = []
        for experiment in snapshot.document.experiments:
            if experiment.rollout is None:
                continue
            try:
                outcomes.append(self._decide_until_done(snapshot, experiment, states, tick))
            except SupersededError as error:
                log.info("%s: %s; deciding again at the next tick", experiment.name, error)
                superseded.append(experiment.name)
            except AbmeshError as error:
                failures[experiment.name] = str(error)
            except OSError as error:
                failures[experiment.name] = trouble(error)
            except Exception as error:
                log.exception("%s: this is a bug in abmesh", experiment.name)
                failures[experiment.name] = repr(error)
        for name, failure in failures.items():
            if self._failures.get(name) != failure:
                log.error("%s: %s", name, failure)
        self._failures = failures
        every = snapshot.document.experiments
        return TickReport(snapshot.generation, "", tuple(outcomes), failures, tuple(superseded), every)

    def forget(self) -> None:
        """Trust nothing that was collected before: another leader has been at work since."""
        self._collector.forget()
        self._holds.forget()

    def _decide_until_done(self, snapshot: Snapshot, experiment: Experiment, states: States, tick: Tick) -> Outcome:
        """Reconcile one experiment; if somebody changes it meanwhile, once more with what is there then.

        Raises:
            SupersededError: that happened again and again.
        """
        name = experiment.name
        for attempt in range(1, self._attempts + 1):
            try:
                return self._reconcile_one(snapshot, experiment, self._usable(snapshot, experiment, states, tick), tick)
            except SupersededError as error:
                if attempt == self._attempts:
                    raise
                log.info("%s: %s; deciding again", name, error)
            states, snapshot = self._states.read(), self._documents.read()
            experiment = snapshot.document.experiment(name)
            if experiment.rollout is None:
                raise SupersededError("the rollout was removed from the document")
        raise AssertionError("unreachable")

    def _usable(self, snapshot: Snapshot, experiment: Experiment, states: States, tick: Tick) -> ExperimentState | None:
        """The state of a rollout; None for a new one.

        Raises:
            StateError: it is damaged; harm was judged all the same.
        """
        name = experiment.name
        if states.damage(name):
            self._guard.watch(snapshot, experiment, tick)
            return states.get(name)
        if name in states.experiments:
            self._guard.forget(name)
        if name in states.restored:
            log.error("%s", states.restored[name])
            with suppress(StateError):  # whatever keeps it from being written shows at the next change
                self._committer.repair(name)
        return states.get(name)

    def _reconcile_one(
        self, snapshot: Snapshot, experiment: Experiment, state: ExperimentState | None, tick: Tick
    ) -> Outcome:
        name = experiment.name
        if state is None:
            try:
                state = self._first.state(experiment, tick.now)
            except SupersededError:
                raise
            except StateError:
                self._guard.watch(snapshot, experiment, tick)
                raise
        elif state.intent is not None:
            log.warning("%s: finishing an interrupted %s", name, state.intent.entry.kind)
            try:
                recovered = self._committer.recover(name, tick.now)
            except (StateError, StoreError):  # a disk, or a lock that somebody keeps
                self._guard_while_pending(name, state, state.intent, tick)
                raise
            assert recovered is not None
            state, snapshot = recovered, self._documents.read()
            experiment = snapshot.document.experiment(name)
            if experiment.rollout is None:
                raise SupersededError("the rollout was removed from the document")
        state = self._first.with_clock(name, state, tick.now)
        assert experiment.rollout is not None
        watching = watched(experiment.rollout, state, tick.now)
        served = EVERYWHERE if self._serving is None else self._serving.of(experiment)
        kept = self._collector.collect(state, name, tick.observations, tick.at, watched=watching, served=served)
        behind = served.behind if kept.window is None and self._collector.overdue(state, tick.now) else ""
        inputs = inputs_of(experiment, state, kept, tick, behind)
        decided = decide(inputs)
        situation, decision, history = decided.situation, decided.decision, decided.history
        if decision.kind is Kind.HOLD and decision.phase is state.phase:
            try:
                made = self._holds.hold(snapshot, inputs, decided)
            except StateError:  # the journal; what was learnt is kept nevertheless
                self._collector.keep(name, state, replace(kept, history=history, requests=situation.requests))
                raise
        else:
            before = state
            entry = self._entry(snapshot, inputs, decided)
            state = self._apply(inputs, decided, entry)
            made = state.decision or entry.decision
            if state.stage.id == entry.id:
                history = history.after_stage(PastStage(entry.id, before.weights, inputs.evidence, history.edges))
            elif state.stage.id != before.stage.id:
                history = History()
        remarks = remarks_of(situation, inputs.now)
        kept = replace(kept, decision=made, history=history, requests=situation.requests, remarks=remarks)
        self._collector.keep(name, state, kept)
        return outcome_of(situation, decision, state, made, snapshot.document.clusters)

    def _entry(self, snapshot: Snapshot, inputs: Inputs, decided: Decided) -> JournalEntry:
        return decision_entry(self._new_id(), format_generation(snapshot.generation), inputs, decided)

    def _apply(self, inputs: Inputs, decided: Decided, entry: JournalEntry) -> ExperimentState:
        """Carry out a decision that changes something."""
        experiment, state, decision, now = inputs.experiment, inputs.state, decided.decision, inputs.now
        changed = after(state, entry, now)

        def plan(present: Snapshot, known: ExperimentState | None) -> Change:
            if known != state:
                raise SupersededError("the state changed while deciding")
            if present.document.experiment(experiment.name) != experiment:
                raise SupersededError("the document changed while deciding")
            return Change(state, changed, entry)

        try:
            done = self._committer.change(experiment.name, plan, now)
        except SupersededError:
            raise
        except StateError as error:
            if decision.kind is Kind.ROLLBACK:
                log.error("%s: rolling back even though %s", experiment.name, error)  # noqa: TRY400 - a known cause
                self._committer.roll_back_unrecorded(experiment.name, Change(state, changed, entry))
            raise
        log.info("%s: %s: %s", experiment.name, done.phase, entry.reason)
        self._holds.changed(entry, done.phase, now)
        return done

    def _guard_while_pending(self, name: str, state: ExperimentState, pending: Intent, tick: Tick) -> None:
        """Roll back for harm even though an earlier change, or its record, cannot be written."""
        snapshot = self._documents.read()
        experiment = snapshot.document.experiment(name)
        present = at_weights(state, pending, experiment)
        if experiment.rollout is None or present is None:
            return
        kept = self._collector.collect(present, name, tick.observations, tick.at)
        inputs = inputs_of(experiment, present, kept, tick)
        decided = decide(inputs)
        with suppress(StateError):  # It stays in memory, and the caller reports the disk's failure.
            self._collector.keep(name, present, replace(kept, history=decided.history))
        if decided.decision.cause is Cause.HARMFUL:
            entry = self._entry(snapshot, inputs, decided)
            log.error("%s: rolling back even though %s cannot be finished", name, pending.entry.kind)
            change = Change(present, after(present, entry, tick.now), entry)
            self._committer.roll_back_instead(name, pending, change, tick.now)
