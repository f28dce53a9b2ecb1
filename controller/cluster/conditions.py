"""What a status says for people, and for programs that know conditions, of what a tick has found. Pure.

    Accepted      the spec can be served
    Healthy       every guardrail is known to be kept
    Progressing   the controller moves the weights
    Ready         accepted, handled without a failure, and programmed as far as that is known

``Programmed`` says what became of the filters of gateways (:mod:`controller.cluster.filters`). The numbers in a
sentence change at every tick: a status is written on a change of anything else, and for numbers once a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from abmesh.experiment.model import Experiment
from abmesh.kube.status import (
    ACCEPTED,
    HEALTHY,
    PROGRAMMED,
    PROGRESSING,
    READY,
    RESTORED,
    Condition,
    Truth,
    with_condition,
)
from controller.cluster.documents import SALT_CHANGED, Refusal, seen
from controller.cluster.objects import Thing
from controller.cluster.status import (
    LONGEST_REASON,
    PENDING,
    PHASES,
    Fields,
    difference,
    status_of,
    weight_fields,
)
from controller.decision.verdicts import Judgement, Verdict
from controller.records import Phase
from controller.rollout.tick import Outcome

NUMBERS_EVERY: Final = timedelta(minutes=1)
"""How often a status is written whose sentences alone have changed."""

_NO_ROLLOUT: Final = "it has no rollout, so its weights are the spec's"


@dataclass(frozen=True, slots=True)
class Programming:
    """Whether gateways or sidecars split an Experiment's routes.

    Attributes:
        truth: the condition's status.
        reason: why, in one CamelCase word.
        message: why, in a sentence.
    """

    truth: Truth
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one Experiment after a tick.

    Attributes:
        thing: the Experiment.
        experiment: what it stands for; None if it is not accepted.
        refusal: why it is not.
        outcome: what the tick did about its rollout, if anything.
        failure: why the tick could not handle it; empty if it could.
        programming: whether its routes are split; None if that is not known, or was not looked at.
        salt: the digest of its secret salt; empty if it has none.
    """

    thing: Thing
    experiment: Experiment | None = None
    refusal: Refusal | None = None
    outcome: Outcome | None = None
    failure: str = ""
    programming: Programming | None = None
    salt: str = ""


def view(found: Found, now: datetime) -> Fields:
    """The fields of a status that tell of a tick: conditions, the last reason, and what is in force.

    What a rollout is at (phase, stage, weights) is not among them: that is changed by its transitions alone.
    """
    status, generation = status_of(found.thing), found.thing["metadata"].get("generation")
    fields: Fields = {"observedGeneration": generation}
    if found.experiment is None:
        fields["phase"] = status.get("phase", PENDING)
        fields["reason"] = _short(found.refusal.message if found.refusal else "not accepted")
    elif found.experiment.rollout is None:
        ranges = found.experiment.effective_ranges
        fields |= weight_fields(found.experiment, found.experiment.weights, ranges)
        fields |= {"lastSeenSpecWeights": seen(found.thing), "phase": PHASES[Phase.MANUAL], "reason": _NO_ROLLOUT}
        fields |= {"plan": None, "stage": None, "candidateWeight": None}
    elif found.failure:
        fields["reason"] = _short(found.failure)
    elif found.outcome is not None:
        fields["reason"] = _short(found.outcome.decision.reason)
    if found.experiment is not None:
        fields["saltDigest"] = found.salt or None
    fields["conditions"] = [
        item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in _conditions(found, now)
    ]
    return fields


def worth_writing(status: Fields, fields: Fields, written: datetime | None, now: datetime) -> bool:
    """Whether a status is to be written: not for numbers alone, if that was done less than a minute ago.

    Args:
        status: as it is.
        fields: as it should be.
        written: when it was last written for numbers; None if never.
        now: the time.
    """
    after = {**status, **fields}
    if not difference(status, {name: value for name, value in after.items() if value is not None}):
        return False
    if _without_sentences(status) != _without_sentences(after):
        return True
    return written is None or not timedelta() <= now - written < NUMBERS_EVERY


def restored(conditions: Iterable[Mapping[str, Any]], message: str, now: datetime) -> list[dict[str, Any]]:
    """The conditions, with one that says that a deleted Experiment goes on where it was."""
    before = [Condition.model_validate(item) for item in conditions]
    after = with_condition(before, RESTORED, "True", "SameSaltAndVariants", message, now=now)
    return [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in after]


def camel(word: str) -> str:
    """A cause as a condition's or an Event's reason: ``weights_edited`` becomes ``WeightsEdited``."""
    return "".join(part.capitalize() for part in word.split("_"))


def _conditions(found: Found, now: datetime) -> tuple[Condition, ...]:
    status = status_of(found.thing)
    conditions = tuple(Condition.model_validate(item) for item in status.get("conditions") or ())
    generation = found.thing["metadata"].get("generation")

    def put(kind: str, truth: Truth, reason: str, message: str) -> None:
        nonlocal conditions
        conditions = with_condition(conditions, kind, truth, reason, message, now=now, generation=generation)

    if (split := found.programming) is not None:
        put(PROGRAMMED, split.truth, split.reason, split.message)
    if found.experiment is None:
        message = found.refusal.message if found.refusal else "not accepted"
        reason = found.refusal.reason if found.refusal else "Invalid"
        put(ACCEPTED, "False", reason, message)
        put(READY, "False", reason, message)
        if reason == SALT_CHANGED:
            # Whatever its guardrails say: servers that start anew would move every user.
            put(HEALTHY, "False", reason, message)
        return conditions
    put(ACCEPTED, "True", "Valid", "the spec can be served")
    outcome = found.outcome
    if outcome is not None:
        put(HEALTHY, *_health(outcome.judgements))
        progressing: Truth = "True" if outcome.state.phase is Phase.PROGRESSING else "False"
        put(PROGRESSING, progressing, camel(outcome.decision.cause), outcome.decision.reason)
    elif found.experiment.rollout is None:
        put(PROGRESSING, "False", "NoRollout", _NO_ROLLOUT)
    programmed = next((item for item in conditions if item.type == PROGRAMMED), None)
    if found.failure:
        put(READY, "False", "Failed", found.failure)
    elif programmed is not None and programmed.status == "False":
        put(READY, "False", programmed.reason, programmed.message)
    else:
        put(READY, "True", "InForce", "the weights are in force")
    return conditions


def _health(judgements: Iterable[Judgement]) -> tuple[Truth, str, str]:
    """Status, reason and message of the condition."""
    found = list(judgements)
    harmful = [item for item in found if item.verdict is Verdict.HARMFUL]
    if harmful:
        return "False", "Harmful", f"beyond its limit: {', '.join(_names(harmful))}"
    open_ = [item for item in found if item.verdict is not Verdict.HEALTHY]
    if open_ or not found:
        about = f"not yet known: {', '.join(_names(open_))}" if open_ else "nothing is judged yet"
        return "Unknown", "NotYetKnown", about
    return "True", "WithinLimits", "every guardrail is known to be kept"


def _names(judgements: Iterable[Judgement]) -> list[str]:
    return list(
        dict.fromkeys("the emergency stop" if item.guardrail is None else item.guardrail.metric for item in judgements)
    )


def _short(text: str) -> str:
    return text[:LONGEST_REASON]


def _without_sentences(status: Mapping[str, Any]) -> dict[str, Any]:
    """What a status says, without what may only differ in numbers."""
    left = {name: value for name, value in status.items() if name not in ("reason", "conditions") and value is not None}
    left["conditions"] = [
        {name: value for name, value in item.items() if name not in ("message", "observedGeneration")}
        for item in status.get("conditions") or ()
    ]
    return left
