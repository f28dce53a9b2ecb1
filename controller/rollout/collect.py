"""The evidence of every experiment's stage, collected from readings and kept between ticks and processes.

Called by :mod:`controller.rollout.reconcile`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from abmesh.experiment.model import Experiment
from controller.evidence.summary import VariantEvidence, summarize
from controller.evidence.window import extend, open_window
from controller.records import ExperimentState, Phase
from controller.sources.base import Observation, readings_of
from controller.state.evidence import EvidenceStore, StageEvidence


class Collector:
    """Collects evidence.

    Args:
        store: keeps it between processes.
        settle: time from a stage's start to its first evidence.
    """

    def __init__(self, store: EvidenceStore, settle: timedelta) -> None:
        self._store = store
        self._settle = settle
        self._live: dict[str, StageEvidence] = {}

    def collect(
        self, state: ExperimentState, name: str, observations: Sequence[Observation], at: datetime
    ) -> StageEvidence:
        """What is known of an experiment's stage, the newest samples included.

        Nothing is collected for a candidate without users, nor for a rollout that is finished or manual.
        """
        live = self._of_stage(name, state)
        if state.phase is Phase.MANUAL or state.phase.finished or state.stage.weight == 0:
            return live
        readings = readings_of(observations, name, at)
        window = live.window
        if window is not None:
            window = extend(window, readings)
        elif readings and min(item.at for item in readings.values()) >= state.stage.started_at + self._settle:
            # Readings may be older than this tick; none may hold requests from before the new weights.
            window = open_window(readings, at)
        else:
            return live
        return replace(live, window=window)

    def keep(self, name: str, state: ExperimentState, live: StageEvidence) -> None:
        """Keep what is known; if another stage has begun, it starts with the history so far.

        Raises:
            StateError: it cannot be written. It stays in memory.
        """
        if live.stage != state.stage.id:
            live = StageEvidence(state.stage.id, decision=live.decision, history=live.history)
        known = self._live.get(name)
        self._live[name] = live
        if known != live:
            self._store.write(name, live)

    def _of_stage(self, name: str, state: ExperimentState) -> StageEvidence:
        live = self._live.get(name) or self._store.read(name)
        if live is None or live.stage != state.stage.id:
            return StageEvidence(state.stage.id)
        return live


def evidence_of(experiment: Experiment, live: StageEvidence) -> dict[str, VariantEvidence]:
    """Evidence of every variant in a stage; empty before there is any."""
    if live.window is None:
        return {}
    return summarize(live.window.totals, experiment.weights, experiment.prices)
