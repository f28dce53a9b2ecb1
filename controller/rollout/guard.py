"""Judges harm by the document alone, and rolls back: for rollouts whose state cannot be read, or whose leader hangs.

It knows nothing but the document's weights and what Envoys have counted since it began to look. It takes no step and
keeps nothing on disk but the journal's entry of a rollback, which it writes after the document. The document is
compared as it is written, so a leader that wakes up finds weights that it did not write: its rollout turns manual.

A person has the last word here, too: what the state or the journal says is manual or finished is left alone. Called by
:mod:`controller.rollout.reconcile` and :mod:`controller.loop`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

from abmesh.experiment.errors import AbmeshError, StateError
from abmesh.experiment.model import Experiment
from abmesh.experiment.store import Snapshot, format_generation
from controller.codec.entries import decision_entry
from controller.decision.decide import decide
from controller.records import Cause, ExperimentState, Phase, adopt
from controller.rollout.collect import Collector
from controller.rollout.tick import Tick, inputs_of
from controller.sources.base import Observation
from controller.state.documents import Documents
from controller.state.ports import Recorder, StateReader
from controller.state.states import States

log = logging.getLogger("abmesh.controller")

_GUARDED = (Phase.PROGRESSING, Phase.PAUSED, None)


class Guard:
    """Watches rollouts without their state.

    Args:
        journal: gets the entry of a rollback.
        documents: keeps the document.
        settle: how long weights need until every server and Envoy serves them.
        new_id: makes the ids of decisions.
    """

    def __init__(
        self,
        *,
        journal: Recorder,
        documents: Documents,
        settle: timedelta,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._journal = journal
        self._documents = documents
        self._new_id = new_id
        self._collector = Collector(None, settle)
        self._seen: dict[str, ExperimentState] = {}
        self._phases: dict[str, Phase | None] = {}

    def watch(self, snapshot: Snapshot, experiment: Experiment, tick: Tick, phase: Phase | None = None) -> bool:
        """Judge an experiment that has a rollout, and roll back for harm.

        Args:
            snapshot: the document.
            experiment: of it.
            tick: what Envoys counted.
            phase: of the rollout; None if the state does not tell, so that the journal is asked.

        Returns:
            Whether it was rolled back.

        Raises:
            AbmeshError: the document cannot be written.
        """
        name = experiment.name
        if (phase or self._last_phase(name)) not in _GUARDED:
            return False
        state = self._state(experiment, tick.now)
        kept = self._collector.collect(state, name, tick.observations, tick.at)
        inputs = inputs_of(experiment, state, kept, tick)
        decided = decide(inputs)
        self._collector.keep(name, state, replace(kept, history=decided.history))
        if decided.decision.cause is not Cause.HARMFUL:
            return False
        entry = decision_entry(self._new_id(), format_generation(snapshot.generation), inputs, decided)
        self._documents.write_weights(name, entry.weights_after, based_on=snapshot.generation, urgent=True)
        log.error("%s: rolled back without its state: %s", name, entry.reason)
        self._phases[name] = Phase.ROLLED_BACK
        try:
            self._journal.append(entry, durable=True)
        except StateError as error:
            log.warning("%s: the rollback is not in the journal: %s", name, error)
        return True

    def forget(self, name: str) -> None:
        """The state of an experiment can be used again."""
        self._seen.pop(name, None)
        self._phases.pop(name, None)

    def stand_in(
        self, states: StateReader, observations: Sequence[Observation], at: datetime, now: datetime
    ) -> dict[str, str]:
        """Watch every rollout in place of a leader that hangs.

        Returns:
            What went wrong, by experiment.

        Raises:
            AbmeshError: the document cannot be read.
        """
        snapshot = self._documents.read()
        known = States()
        with suppress(StateError):
            known = states.read()
        tick = Tick(observations, at, now)
        failures: dict[str, str] = {}
        for experiment in snapshot.document.experiments:
            if experiment.rollout is None:
                continue
            state = known.experiments.get(experiment.name)
            try:
                self.watch(snapshot, experiment, tick, None if state is None else state.phase)
            except AbmeshError as error:
                failures[experiment.name] = str(error)
        return failures

    def _state(self, experiment: Experiment, now: datetime) -> ExperimentState:
        """A state that fits the document; another one when its weights or plan change, or the clock
        was set back.
        """
        known = self._seen.get(experiment.name)
        state = adopt(experiment, Phase.PAUSED, self._new_id() if known is None else known.stage.id, now)
        set_back = known is not None and known.stage.started_at > now
        if known is not None and not set_back and known.model_copy(update={"stage": state.stage}) == state:
            return known
        state = adopt(experiment, Phase.PAUSED, self._new_id(), now)
        self._seen[experiment.name] = state
        return state

    def _last_phase(self, name: str) -> Phase | None:
        """The phase in the journal's last entry about an experiment; None if there is none."""
        if name not in self._phases:
            self._phases[name] = None
            with suppress(StateError):
                entry = self._journal.entry(name)
                self._phases[name] = entry.phase if entry else None
        return self._phases[name]
