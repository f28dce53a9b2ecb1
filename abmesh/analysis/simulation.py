"""Plays whole rollouts on a described truth, with the function that decides in production. Deterministic for a seed.

Every tick the users of :mod:`abmesh.analysis.crowd` send requests, which are counted as Envoy counts them, in slices
and in histograms with two significant digits. :func:`play` then does what the controller does: decide, and move the
weights. Left out is what is not a question of statistics: Envoys that restart or do not answer, and people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np

from abmesh.analysis.changed import with_weights
from abmesh.analysis.counted import Counted
from abmesh.analysis.crowd import Crowd
from abmesh.analysis.truth import Truth
from abmesh.experiment.model import Experiment
from abmesh.experiment.weights import move_candidate
from controller.decision.decide import Decided, Inputs, decide
from controller.decision.history import History, PastStage
from controller.evidence.coverage import Coverage
from controller.records import Cause, ExperimentState, Phase, Stage, adopt
from controller.wording.reasons import reason

_START = datetime(2026, 1, 1, tzinfo=UTC)

Watcher = Callable[[Inputs, Decided], None]
"""Is shown every look: what was seen, and what was decided."""

Ticks = Callable[[timedelta], timedelta]
"""From how long the stage has lasted to the time until the next look."""


class Ending(StrEnum):
    """How a simulated rollout ended; one that harm has paused waits for a person, so it is at its end as well."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    PAUSED = "paused"
    CONCLUDED = "concluded"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Played:
    """One simulated rollout.

    Attributes:
        ending: how it ended.
        cause: of its last decision.
        weight: the candidate's before that decision, in basis points.
        after: from the start to that decision.
        requests: the candidate's, in all stages.
        reason: of that decision, as a sentence.
    """

    ending: Ending
    cause: Cause
    weight: int
    after: timedelta
    requests: int
    reason: str


def play(
    experiment: Experiment,
    truth: Truth,
    *,
    tick: timedelta | Ticks,
    longest: timedelta,
    seed: int | list[int],
    watch: Watcher | None = None,
    settle: timedelta = timedelta(),
) -> Played:
    """Play one rollout from the document's weights to its end.

    Args:
        experiment: with a rollout, and any weights.
        truth: the true properties of the variants.
        tick: time between two looks, always the same or by the stage's age.
        longest: time after which an unfinished rollout is UNDECIDED.
        seed: of the random numbers; the same seed plays the same rollout.
        watch: called at every look, the last one included.
        settle: time from a stage's start to its first evidence.
    """
    assert experiment.rollout is not None
    crowd = Crowd(truth, np.random.default_rng(seed))
    now = _START
    state = adopt(experiment, Phase.PROGRESSING, "start", now)
    history, counted, requests = History(), _nothing(experiment, truth), 0
    decided = 0
    while True:
        began = state.stage.started_at + settle
        collecting = state.stage.weight > 0 and now >= began
        inputs = Inputs(
            experiment=experiment,
            state=state,
            history=history,
            coverage=Coverage(1),
            at=now,
            now=now,
            began=began if collecting else None,
            evidence=counted.evidence(experiment.prices) if collecting else {},
        )
        found = decide(inputs)
        if watch is not None:
            watch(inputs, found)
        decision, history = found.decision, found.history
        ending = _ending(decision.phase)
        if ending is not None or now - _START >= longest:
            requests += found.situation.requests
            text = reason(decision, found.situation, now)
            return Played(ending or Ending.UNDECIDED, decision.cause, state.stage.weight, now - _START, requests, text)
        if decision.target is not None:
            decided += 1
            requests += found.situation.requests
            history = history.after_stage(PastStage(str(decided), state.weights, inputs.evidence, history.edges))
            experiment, state = _moved(experiment, state, decision.target, str(decided), now)
            counted = _nothing(experiment, truth)
            began = now + settle
        step = tick if isinstance(tick, timedelta) else tick(state.stage.age(now))
        settling = now < began
        step = min(step, began - now) if settling else step
        now += step
        crowd.act(experiment, state.candidate, counted, step.total_seconds(), (now - _START).total_seconds())
        if settling:
            counted = _nothing(experiment, truth)


def _ending(phase: Phase) -> Ending | None:
    return {
        Phase.PROMOTED: Ending.PROMOTED,
        Phase.ROLLED_BACK: Ending.ROLLED_BACK,
        Phase.PAUSED: Ending.PAUSED,
        Phase.CONCLUDED: Ending.CONCLUDED,
    }.get(phase)


def _moved(
    experiment: Experiment, state: ExperimentState, target: int, decision: str, now: datetime
) -> tuple[Experiment, ExperimentState]:
    weights = move_candidate(experiment.weights, state.control, state.candidate, target)
    moved = with_weights(experiment, weights)
    stage = Stage(id=decision, weight=target, started_at=now)
    return moved, state.model_copy(update={"weights": weights, "stage": stage})


def _nothing(experiment: Experiment, truth: Truth) -> Counted:
    return Counted(list(experiment.weights), experiment.slices, [segment.name for segment in truth.segments])
