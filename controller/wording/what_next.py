"""What follows while a rollout holds, as the end of a reason. Pure; used by :mod:`controller.wording.reasons`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from abmesh.experiment.quantities import format_percent
from controller.decision.policy import Situation, next_step
from controller.decision.verdicts import Judgement, OnHarm, Verdict
from controller.wording.values import show_coarse
from controller.wording.verdicts import judgement_text


def threatening(situation: Situation) -> str:
    """What leads to a rollback or a pause unless it changes, while something else is waited for."""
    leading = [item for item in _in_earnest(situation) if item.leads is Verdict.HARMFUL and item.needed is not None]
    soonest = min(leading, key=lambda item: item.needed or 0, default=None)
    return "" if soonest is None else f"; {judgement_text(soonest, situation.state)}"


def what_next(situation: Situation, now: datetime) -> str:
    """What follows a hold: the next step, the end of the stage's time, or a person."""
    state, rollout = situation.state, situation.rollout
    judged = _in_earnest(situation)
    waiting = [item for item in judged if item.verdict is not Verdict.HEALTHY]
    if any(item.leads is Verdict.HARMFUL and item.needed is not None for item in waiting):
        return ""  # Their sentences say what happens next.
    longest = rollout.stage.max_duration
    if longest is not None and rollout.on_timeout == "rollback" and _late(waiting, longest - state.stage.age(now)):
        left = show_coarse(longest - state.stage.age(now))
        return f"; in {left} the stage reaches its max_duration and is rolled back (on_timeout: rollback)"
    if any(item.stuck for item in waiting):
        return "; as things are, only abmesh promote or abmesh rollback moves it"
    if rollout.mode == "experiment" or any(item.verdict is Verdict.ERROR for item in waiting):
        return ""
    step = next_step(state.steps, state.stage.weight)
    then = "it is promoted" if step is None else f"it advances to {format_percent(step)}"
    alone = len(judged) == 1 and waiting[0].needed is not None
    return f"; {'then' if alone else 'once all guardrails are healthy,'} {then}"


def _in_earnest(situation: Situation) -> list[Judgement]:
    """The verdicts that something follows from: not those of guardrails that only watch."""
    return [item for item in situation.judgements if item.on_harm is not OnHarm.REPORT]


def _late(waiting: Iterable[Judgement], left: timedelta) -> bool:
    """Whether a verdict takes longer than the time that is left, as far as anybody can tell."""
    for item in waiting:
        if item.healthy:
            continue
        if item.needed is None or not item.latest_n:
            return True
        if timedelta(seconds=item.elapsed / item.latest_n * item.needed) > left:
            return True
    return False
