"""Plays whole rollouts on a described truth, with the function that decides in production. Deterministic for a seed.

Users have an activity (Pareto: a few send most of the requests), an error rate and a latency of their own; the
assignment law gives them a bucket, slice and group; every tick they send requests, whose errors and durations are
counted as Envoy counts them, in slices and in histograms with two significant digits. :func:`play` then does what the
controller does: decide, and move the weights. Left out is what is not a question of statistics: Envoys that restart or
do not answer, and people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from abmesh.experiment.bucketing import group_of
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import BUCKETS, GROUPS
from abmesh.experiment.weights import move_candidate
from abmesh.inference.numbers import Floats
from controller.decision.decide import Inputs, decide
from controller.decision.history import Evidence, History, PastStage
from controller.evidence.coverage import Coverage
from controller.evidence.summary import SliceEvidence, VariantEvidence
from controller.records import Cause, ExperimentState, Phase, Stage, adopt
from controller.wording.reasons import reason

_START = datetime(2026, 1, 1, tzinfo=UTC)
_DECADES = 7
_BINS = 90 * _DECADES

Ints = NDArray[np.int64]


class Ending(StrEnum):
    """How a simulated rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    CONCLUDED = "concluded"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Truth:
    """The true properties of the variants.

    Attributes:
        users: how many there are.
        requests_per_second: of all of them together.
        activity: shape of the Pareto distribution of the users' activities; smaller is more uneven, 1.2 heavy-tailed.
        error_rate: of the control, 0..1.
        error_factor: the candidate's error rate over the control's.
        error_spread: standard deviation of the logarithm of the users' own error rates.
        latency_ms: median duration of the control's requests, in milliseconds.
        latency_factor: the candidate's durations over the control's.
        latency_spread: standard deviation of the logarithm of durations.
        latency_between: share of that variance that lies between users, 0..1.
        drift: amplitude of a daily wave in error rate and load, 0..1.
    """

    users: int = 5000
    requests_per_second: float = 20.0
    activity: float = 2.0
    error_rate: float = 0.01
    error_factor: float = 1.0
    error_spread: float = 0.5
    latency_ms: float = 200.0
    latency_factor: float = 1.0
    latency_spread: float = 0.5
    latency_between: float = 0.25
    drift: float = 0.0


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


def play(experiment: Experiment, truth: Truth, *, tick: timedelta, longest: timedelta, seed: int | list[int]) -> Played:
    """Play one rollout from the document's weights to its end.

    Args:
        experiment: with a rollout, and any weights.
        truth: the true properties of the variants.
        tick: time between two looks.
        longest: time after which an unfinished rollout is UNDECIDED.
        seed: of the random numbers; the same seed plays the same rollout.
    """
    assert experiment.rollout is not None
    crowd = _Crowd(truth, np.random.default_rng(seed))
    now = _START
    state = adopt(experiment, Phase.PROGRESSING, "start", now)
    history, counted, requests = History(), _nothing(experiment), 0
    decided = 0
    while True:
        inputs = Inputs(
            experiment=experiment,
            state=state,
            history=history,
            coverage=Coverage(1),
            at=now,
            now=now,
            began=state.stage.started_at if state.stage.weight else None,
            evidence=_evidence(counted, experiment.slices) if state.stage.weight else {},
        )
        found = decide(inputs)
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
            counted = _nothing(experiment)
        now += tick
        crowd.act(experiment, state, counted, tick.total_seconds(), (now - _START).total_seconds())


def _ending(phase: Phase) -> Ending | None:
    return {
        Phase.PROMOTED: Ending.PROMOTED,
        Phase.ROLLED_BACK: Ending.ROLLED_BACK,
        Phase.CONCLUDED: Ending.CONCLUDED,
    }.get(phase)


def _moved(
    experiment: Experiment, state: ExperimentState, target: int, decision: str, now: datetime
) -> tuple[Experiment, ExperimentState]:
    weights = move_candidate(experiment.weights, state.control, state.candidate, target)
    variants = tuple(variant.model_copy(update={"weight": weights[variant.name]}) for variant in experiment.variants)
    # Not model_copy, which would copy the cells that are cached for the old weights.
    fields = {name: getattr(experiment, name) for name in Experiment.model_fields}
    moved = Experiment.model_validate(
        {**fields, "salt": experiment.public_salt, "secret_salt": None, "variants": variants}
    )
    stage = Stage(id=decision, weight=target, started_at=now)
    return moved, state.model_copy(update={"weights": weights, "stage": stage})


@dataclass(slots=True)
class _Counted:
    """One variant's counts in the current stage: by slice, and durations by group and bin."""

    requests: Ints
    errors: Ints
    duration_ms: Floats
    bins: Ints


def _nothing(experiment: Experiment) -> dict[str, _Counted]:
    slices = experiment.slices
    return {
        name: _Counted(
            np.zeros(slices, np.int64),
            np.zeros(slices, np.int64),
            np.zeros(slices),
            np.zeros((GROUPS, _BINS), np.int64),
        )
        for name in experiment.weights
    }


class _Crowd:
    """The users, who send requests."""

    def __init__(self, truth: Truth, random: np.random.Generator) -> None:
        self._truth = truth
        self._random = random
        activity = random.pareto(truth.activity, truth.users) + 1
        self._activity = activity / activity.sum()
        self._buckets = random.integers(0, BUCKETS, truth.users)
        proneness = np.exp(random.normal(0, truth.error_spread, truth.users) - truth.error_spread**2 / 2)
        self._errors = truth.error_rate * proneness
        between = truth.latency_spread * np.sqrt(truth.latency_between)
        self._slowness = np.log(truth.latency_ms) + random.normal(0, between, truth.users)
        self._within = truth.latency_spread * np.sqrt(1 - truth.latency_between)
        self._placed: tuple[str, Ints, Ints] | None = None

    def act(
        self, experiment: Experiment, state: ExperimentState, counted: dict[str, _Counted], seconds: float, at: float
    ) -> None:
        """Send the requests of some seconds and count them."""
        truth, random = self._truth, self._random
        wave = 1 + truth.drift * np.sin(2 * np.pi * at / 86_400)
        sent = random.poisson(self._activity * truth.requests_per_second * wave * seconds)
        who = np.repeat(np.arange(truth.users), sent)
        variant, slices = self._cells(experiment, state)
        names = list(experiment.weights)
        is_candidate = variant[who] == names.index(state.candidate)
        failed = random.random(who.size) < self._errors[who] * wave * np.where(is_candidate, truth.error_factor, 1.0)
        duration = np.exp(self._slowness[who] + random.normal(0, self._within, who.size))
        duration = np.maximum(np.round(duration * np.where(is_candidate, truth.latency_factor, 1.0)), 1.0)
        bins = _bin_of(duration)
        for index, name in enumerate(names):
            mine = variant[who] == index
            slice_, into = slices[who[mine]], counted[name]
            into.requests += np.bincount(slice_, minlength=experiment.slices)
            into.errors += np.bincount(slice_[failed[mine]], minlength=experiment.slices)
            into.duration_ms += np.bincount(slice_, weights=duration[mine], minlength=experiment.slices)
            cell = (slice_ * GROUPS // experiment.slices) * _BINS + bins[mine]
            into.bins += np.bincount(cell, minlength=GROUPS * _BINS).reshape(GROUPS, _BINS)

    def _cells(self, experiment: Experiment, state: ExperimentState) -> tuple[Ints, Ints]:
        """The variant's number and the slice of every user, by the law."""
        if self._placed is None or self._placed[0] != state.stage.id:
            names = list(experiment.weights)
            cells = [experiment.cells[bucket] for bucket in self._buckets]
            variant = np.array([names.index(cell.variant) for cell in cells])
            self._placed = (state.stage.id, variant, np.array([cell.slice for cell in cells]))
        return self._placed[1], self._placed[2]


def _bin_of(durations: Floats) -> Ints:
    """The log-linear bin with two significant digits that holds a duration of at least 1 ms."""
    decade = np.clip(np.floor(np.log10(durations) + 1e-12), 0, _DECADES - 1)
    digits = np.clip(np.floor(durations / 10.0 ** (decade - 1) + 1e-9), 10, 99)
    return np.asarray(decade * 90 + digits - 10, dtype=np.int64)


def _bounds() -> list[tuple[float, float]]:
    """Lower bound and width of every bin, in milliseconds."""
    found = []
    for decade in range(_DECADES):
        width = 10.0 ** (decade - 1)
        found += [(round(digits * width, 1), width) for digits in range(10, 100)]
    return found


_BOUNDS = _bounds()


def _evidence(counted: dict[str, _Counted], slices: int) -> Evidence:
    return {name: _of(item, slices) for name, item in counted.items()}


def _of(counted: _Counted, slices: int) -> VariantEvidence:
    requests, errors = counted.requests.tolist(), counted.errors.tolist()
    milliseconds = counted.duration_ms.astype(np.int64).tolist()
    groups: dict[int, dict[tuple[float, float], int]] = {}
    for group in range(GROUPS):
        row = counted.bins[group]
        groups[group] = {_BOUNDS[index]: int(row[index]) for index in np.flatnonzero(row)}
    assert group_of(slices - 1, slices) == GROUPS - 1, "groups are those of the law"
    return VariantEvidence(
        codes={200: sum(requests) - sum(errors), 500: sum(errors)},
        duration_ms=sum(milliseconds),
        slices={
            index: SliceEvidence(requests[index], errors[index], 0, milliseconds[index]) for index in range(slices)
        },
        groups=groups,
    )
