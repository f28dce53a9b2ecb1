"""Whether a candidate is warm enough for its first users, from its warm-up requests so far. Pure.

:mod:`controller.rollout.warmer` sends the requests and keeps :class:`Progress`; :mod:`controller.decision.decide`
judges it like evidence, so that the journal holds what a start was decided on.

Durations are in milliseconds, in the order in which requests ended; None is a request that failed: it got no answer, or
a status other than 2xx. Only a model that has worked has become warmer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Annotated

from pydantic import AwareDatetime, Field

from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Warmup
from controller.records import ExperimentState, Phase, Record

AGAIN_AFTER = timedelta(minutes=1)
"""Time between a failed warm-up and the next one."""

_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Target:
    """What needs warming up.

    Attributes:
        experiment: its name.
        candidate: the variant.
        stage: id of the stage in which it waits for its first users; another one begins another warm-up.
        warmup: what the document asks for.
    """

    experiment: str
    candidate: str
    stage: str
    warmup: Warmup


class Progress(Record):
    """How far a warm-up is.

    Attributes:
        listeners: how many warm-up listeners the controller knows.
        began: when it began; None before that.
        requests: that ended.
        failed: how many of them failed.
        failing: how many of the last ones failed, one after another.
        first_ms: duration of the first request that succeeded.
        last_ms: that of the last one.
        before_ms, after_ms: the medians that show whether it has settled; None until there are enough requests.
        problem: why the last failed request failed.
    """

    listeners: _Count = 0
    began: AwareDatetime | None = None
    requests: _Count = 0
    failed: _Count = 0
    failing: _Count = 0
    first_ms: float | None = None
    last_ms: float | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    problem: str = ""


class WarmupState(StrEnum):
    """How far a warm-up has come.

    WARM and UNSETTLED let the candidate have users: its durations no longer fall, or a limit was reached before they
    stopped falling. GOING and FAILED hold it.
    """

    GOING = "going"
    WARM = "warm"
    UNSETTLED = "unsettled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """What a warm-up's progress amounts to.

    Attributes:
        state: how far it has come.
        warmup: what the document asks for.
        progress: what it was judged on.
    """

    state: WarmupState
    warmup: Warmup
    progress: Progress

    @property
    def enough(self) -> bool:
        """Whether the candidate may have users."""
        return self.state in (WarmupState.WARM, WarmupState.UNSETTLED)


@dataclass(frozen=True, slots=True)
class Warmups:
    """All warm-ups at one time.

    Attributes:
        listeners: how many warm-up listeners the controller knows.
        known: target and progress of each, by experiment.
    """

    listeners: int = 0
    known: Mapping[str, tuple[Target, Progress]] = field(default_factory=dict)

    def of(self, target: Target | None) -> Progress | None:
        """How far a target's warm-up is; None if there is no target."""
        if target is None:
            return None
        known, progress = self.known.get(target.experiment, (None, None))
        return progress if known == target else Progress(listeners=self.listeners)


def target_of(experiment: Experiment, state: ExperimentState) -> Target | None:
    """What needs warming up, if anything: a candidate without users whose rollout is under way and asks for it."""
    rollout = experiment.rollout
    if rollout is None or rollout.warmup is None or state.phase is not Phase.PROGRESSING or state.stage.weight > 0:
        return None
    if experiment.weights.get(rollout.candidate) != 0 or rollout.candidate != state.candidate:
        return None
    return Target(experiment.name, rollout.candidate, state.stage.id, rollout.warmup)


def halves(durations: Sequence[float | None], warmup: Warmup) -> tuple[float, float] | None:
    """Medians of the last requests and of as many before them: before, after.

    Both halves come from the second half of all requests, so that a long cold start is forgotten, but from at least
    ``min_requests``. None if there are fewer, or if any of them failed.
    """
    each = max(warmup.min_requests, len(durations) // 2) // 2
    if len(durations) < warmup.min_requests:
        return None
    recent = [duration for duration in durations[-2 * each :] if duration is not None]
    if len(recent) < 2 * each:
        return None
    return median(recent[:each]), median(recent[each:])


def settled(durations: Sequence[float | None], warmup: Warmup) -> bool:
    """Whether durations no longer fall by more than is allowed."""
    return _steady(halves(durations, warmup), warmup)


def progress_of(durations: Sequence[float | None], warmup: Warmup) -> Progress:
    """How far requests have come, as far as their durations show."""
    answered = [duration for duration in durations if duration is not None]
    failing = next((index for index, item in enumerate(reversed(durations)) if item is not None), len(durations))
    before, after = halves(durations, warmup) or (None, None)
    return Progress(
        requests=len(durations),
        failed=len(durations) - len(answered),
        failing=failing,
        first_ms=answered[0] if answered else None,
        last_ms=answered[-1] if answered else None,
        before_ms=before,
        after_ms=after,
    )


def judge_warmup(warmup: Warmup, progress: Progress, now: datetime) -> WarmupResult:
    """Whether the candidate is warm.

    Args:
        warmup: what the document asks for.
        progress: how far it is.
        now: the time.
    """
    return WarmupResult(_state(warmup, progress, now), warmup, progress)


def _state(warmup: Warmup, progress: Progress, now: datetime) -> WarmupState:
    if progress.listeners == 0:
        return WarmupState.FAILED
    if progress.began is None:
        return WarmupState.GOING
    medians = None
    if progress.before_ms is not None and progress.after_ms is not None:
        medians = progress.before_ms, progress.after_ms
    if _steady(medians, warmup):
        return WarmupState.WARM
    age = max(now - progress.began, timedelta())
    if progress.requests < warmup.max_requests and age < warmup.max_duration:
        return WarmupState.GOING
    if progress.failing >= min(warmup.min_requests, progress.requests):
        return WarmupState.FAILED
    return WarmupState.UNSETTLED


def _steady(medians: tuple[float, float] | None, warmup: Warmup) -> bool:
    return medians is not None and medians[1] >= medians[0] * (1 - warmup.settled)
