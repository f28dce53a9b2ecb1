"""The evidence of every experiment's stage, collected from readings and kept between ticks and processes.

Called by :mod:`controller.rollout.reconcile`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from abmesh.experiment.model import Experiment
from controller.decision.history import History, PastStage
from controller.evidence.summary import VariantEvidence
from controller.evidence.summing import summarize
from controller.evidence.window import extend, forget, open_window
from controller.records import ExperimentState, Phase
from controller.rollout.serving import Served
from controller.sources.base import Observation, present, readings_of
from controller.state.evidence import StageEvidence
from controller.state.ports import Evidence

EVERYWHERE: Final = Served()

Earlier = Callable[[str, str], PastStage | None]
"""What is remembered of a stage, by the experiment's name and the id of the decision that ended it."""


class Collector:
    """Collects evidence.

    Args:
        store: keeps it between processes; None if it need not be kept.
        settle: time from a stage's start to its first evidence.
        earlier: asked when a stage has begun of which this collector was not told; if None, the rollout then remembers
            nothing of the stage before.
    """

    def __init__(
        self,
        store: Evidence | None,
        settle: timedelta,
        earlier: Earlier | None = None,
    ) -> None:
        self._store = store
        self._settle = settle
        self._earlier = earlier
        self._kept: dict[str, StageEvidence] = {}

    def collect(
        self,
        state: ExperimentState,
        name: str,
        observations: Sequence[Observation],
        at: datetime,
        *,
        watched: bool = False,
        served: Served = EVERYWHERE,
    ) -> StageEvidence:
        """What is known of an experiment's stage, the newest samples included.

        Nothing is collected for a candidate without users, nor for a rollout that is manual, or finished and not
        ``watched``. A stage's evidence begins once everybody serves it.
        """
        kept = self._of_stage(name, state)
        over = state.phase.finished and not watched
        if state.phase is Phase.MANUAL or over or state.stage.weight == 0:
            return kept
        readings = readings_of(observations, name, at)
        window = kept.window
        if window is not None:
            window = forget(extend(window, readings), present(observations))
        elif readings and not served.behind and self._from(state, served) <= min(item.at for item in readings.values()):
            # Readings may be older than this tick; none may hold requests from before the new weights.
            window = open_window(readings, at)
        else:
            return kept
        return replace(kept, window=window)

    def _from(self, state: ExperimentState, served: Served) -> datetime:
        settled = state.stage.started_at + self._settle
        return settled if served.since is None else max(settled, served.since)

    def overdue(self, state: ExperimentState, now: datetime) -> bool:
        """Whether everybody should serve a stage by now."""
        return state.stage.age(now) >= self._settle

    def keep(self, name: str, state: ExperimentState, kept: StageEvidence) -> None:
        """Keep what is known; if another stage has begun, it starts with the history so far.

        Raises:
            StateError: it cannot be written. It stays in memory.
        """
        if kept.stage != state.stage.id:
            kept = StageEvidence(state.stage.id, decision=kept.decision, history=kept.history, remarks=kept.remarks)
        known = self._kept.get(name)
        self._kept[name] = kept
        if known != kept and self._store is not None:
            self._store.write(name, kept)

    def forget(self) -> None:
        """Trust nothing that is in memory."""
        self._kept.clear()

    def _of_stage(self, name: str, state: ExperimentState) -> StageEvidence:
        kept = self._kept.get(name)
        if kept is None and self._store is not None:
            kept = self._store.read(name)
        if kept is None:
            return StageEvidence(state.stage.id)
        if kept.stage != state.stage.id:
            past = None if self._earlier is None else self._earlier(name, state.stage.id)
            history = History() if past is None else kept.history.after_stage(past)
            return StageEvidence(state.stage.id, history=history)
        return kept


def evidence_of(experiment: Experiment, kept: StageEvidence) -> dict[str, VariantEvidence]:
    """Evidence of every variant in a stage; empty before there is any."""
    if kept.window is None:
        return {}
    return summarize(kept.window.totals, experiment.weights, experiment.prices)
