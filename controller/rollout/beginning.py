"""The state of a rollout that begins, or whose clock was set back. Called by :mod:`controller.rollout.reconcile`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from abmesh.experiment.errors import StateError
from abmesh.experiment.model import Experiment
from controller.records import Cause, DecisionRecord, ExperimentState, Kind, Phase, adopt
from controller.state.ports import Recorder, StateReader
from controller.state.transition import SupersededError, Transitions
from controller.wording.mishaps import state_lost

log = logging.getLogger("abmesh.controller")


class Beginning:
    """Puts states that nobody decided on.

    Args:
        states: the state of every rollout.
        journal: knows which rollouts there were.
        transitions: keeps states.
        new_id: makes the ids of decisions.
    """

    def __init__(
        self, states: StateReader, journal: Recorder, transitions: Transitions, new_id: Callable[[], str]
    ) -> None:
        self._states = states
        self._journal = journal
        self._transitions = transitions
        self._new_id = new_id

    def state(self, experiment: Experiment, now: datetime) -> ExperimentState:
        """The state of a new rollout, or of one whose state was lost."""
        name, stage_id = experiment.name, self._new_id()
        state = adopt(experiment, Phase.PROGRESSING, stage_id, now)
        if self._journal.knows(name):
            text = state_lost(name, self._states.place(name))
            lost = DecisionRecord(id=stage_id, kind=Kind.HOLD, cause=Cause.STATE_LOST, reason=text, at=now)
            state = state.model_copy(update={"phase": Phase.MANUAL, "decision": lost})
            log.warning("%s: %s", name, text)
        self._transitions.put(name, None, state)
        return state

    def with_clock(self, name: str, state: ExperimentState, now: datetime) -> ExperimentState:
        """A stage that began in the future would never end: the clock was set back, so it starts now."""
        if state.stage.started_at <= now:
            return state
        log.warning("%s: the clock was set back to before the stage began; its age counts from now", name)
        corrected = state.model_copy(update={"stage": state.stage.model_copy(update={"started_at": now})})
        try:
            self._transitions.put(name, state, corrected)
        except SupersededError:
            raise
        except StateError as error:  # harm is judged all the same
            log.error("%s: %s", name, error)  # noqa: TRY400 - the text says it all
        return corrected
