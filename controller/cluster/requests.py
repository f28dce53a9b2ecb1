"""People's requests: an annotation of an Experiment, written by their own rights, that the leader carries out.

    abmesh.dev/request: '{"id": "9f2c...", "action": "pause", "reason": "a look at it", "by": "ada", "arguments": {}}'

The answer, ``status.lastRequest``, is part of the patch that carries the request out, so none is carried out twice, and
one that was carried out is answered.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from abmesh.experiment.errors import RefusedError, SettingsError, UnknownName, WeightsError
from abmesh.experiment.quantities import parse_weight
from abmesh.experiment.store import Snapshot
from controller.cluster.maps import annotation
from controller.cluster.names import REQUEST
from controller.cluster.objects import Thing
from controller.cluster.status import LONGEST_REASON, status_of
from controller.cluster.transitions import ClusterTransitions
from controller.records import ExperimentState, Phase, adopt
from controller.rollout.operations import (
    Decide,
    change_of,
    pausing,
    promoting,
    resuming,
    rolling_back,
    setting_weights,
    with_rollout,
)
from controller.settings import check_note
from controller.state.transition import Change, SupersededError

log = logging.getLogger("abmesh.controller")

LONGEST_REQUEST = 4096
"""Characters of the annotation."""

Action = Literal["pause", "resume", "promote", "rollback", "weights"]


class Request(BaseModel):
    """What somebody asks for.

    Attributes:
        id: other than that of every request before; at most 64 letters, digits and hyphens.
        action: what to do.
        reason: why, for the journal.
        by: who, as they call themselves; the object's managedFields say whose rights were used.
        arguments: ``step: true`` of ``promote``; ``VARIANT: PERCENT`` of ``weights``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    action: Action
    reason: str = ""
    by: Annotated[str, Field(max_length=253)] = ""
    arguments: dict[str, Any] = Field(default_factory=dict)


def pending(thing: Thing) -> bool:
    """Whether an Experiment has a request that was not answered."""
    return waiting(thing) is not None


def waiting(thing: Thing) -> Request | str | None:
    """The request that waits for an answer; why it cannot be read, if so; None if there is none."""
    text = annotation(thing, REQUEST)
    if not text:
        return None
    if len(text) > LONGEST_REQUEST:
        found: Request | str = f"the request has {len(text)} characters; allowed: at most {LONGEST_REQUEST}"
    else:
        try:
            found = Request.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            found = f"the request cannot be read: {where}: {first['msg']}"
    answered = (status_of(thing).get("lastRequest") or {}).get("id")
    return None if answered == _id(found, text) else found


def carry_out(
    name: str,
    thing: Thing,
    transitions: ClusterTransitions,
    now: datetime,
    revive: Callable[[str], str] = lambda _: "",
) -> None:
    """Carry out the request that waits, if one does, and answer it.

    Args:
        name: the experiment's name.
        thing: the Experiment.
        transitions: carries out changes.
        now: the time.
        revive: what ``resume`` brings back besides, of an experiment by its name, in a sentence; empty if nothing.

    Raises:
        StateError: the API server did not take it; it waits still.
    """
    found = waiting(thing)
    if found is None:
        return
    if isinstance(found, str):
        _refuse(name, "", _id(found, annotation(thing, REQUEST)), found, transitions, now)
        return
    request = found
    try:
        note, decide = check_note(request.reason), decision_of(request)

        def plan(snapshot: Snapshot, state: ExperimentState | None) -> Change:
            experiment = with_rollout(snapshot, name)
            before = state or adopt(experiment, Phase.PROGRESSING, uuid4().hex, now)
            operation = decide(experiment, before)
            return change_of(
                snapshot, experiment, before, operation, by=request.by, note=note, now=now, request=request.id
            )

        transitions.change(name, plan, now)
        log.info("%s: %s, as %s asked", name, request.action, request.by or "somebody")
    except (RefusedError, UnknownName, WeightsError, SettingsError) as error:
        if request.action == "resume" and isinstance(error, RefusedError) and (told := revive(name)):
            _answer(name, request, told, transitions, now)
            return
        _refuse(name, request.action, request.id, str(error), transitions, now)
    except SupersededError as error:
        log.info("%s: %s; its request waits", name, error)


def _answer(name: str, request: Request, told: str, transitions: ClusterTransitions, now: datetime) -> None:
    log.info("%s: %s, as %s asked: %s", name, request.action, request.by or "somebody", told)
    answer = {"id": request.id, "action": request.action, "outcome": "done", "message": told[:LONGEST_REASON]}
    transitions.answer(name, {**answer, "at": now.isoformat().replace("+00:00", "Z")})


def _refuse(name: str, action: str, request: str, message: str, transitions: ClusterTransitions, now: datetime) -> None:
    log.info("%s: a request was refused: %s", name, message)
    answer = {"id": request, "outcome": "refused", "message": message[:LONGEST_REASON]}
    answer |= {"action": action} if action else {}
    transitions.answer(name, {**answer, "at": now.isoformat().replace("+00:00", "Z")})


def decision_of(request: Request) -> Decide:
    """What a request does to a rollout.

    Raises:
        RefusedError, WeightsError: its arguments are not those of its action.
    """
    by, arguments = request.by, request.arguments
    if request.action == "weights":
        named = {}
        for variant, value in arguments.items():
            weight = parse_weight(value) if isinstance(value, int | float | str) else None
            if weight is None:
                raise WeightsError(f"{variant}={value!r} is not a weight in percent; write 12.5, for example")
            named[variant] = weight
        return setting_weights(by, named)
    step = arguments.get("step", False)
    if arguments.keys() - ({"step"} if request.action == "promote" else set()) or not isinstance(step, bool):
        raise RefusedError(f"{request.action} does not know these arguments: {', '.join(sorted(arguments))}")
    if request.action == "promote":
        return promoting(by, full=not step)
    return {"pause": pausing, "resume": resuming, "rollback": rolling_back}[request.action](by)


def _id(found: Request | str, text: str) -> str:
    """The id to answer; of a request that cannot be read, whatever it calls itself, or a word for it."""
    if isinstance(found, Request):
        return found.id
    try:
        told = json.loads(text)["id"]
    except (KeyError, TypeError, ValueError):
        told = ""
    return told if isinstance(told, str) and 0 < len(told) <= 64 else "unreadable"
