"""A rollout's state as the fields of an Experiment's status, both ways. Pure.

The status holds the whole state, so that one patch of it is a change, and nothing else needs to be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from abmesh.experiment.errors import StateError
from abmesh.experiment.model import Experiment
from abmesh.experiment.quantities import format_percent, percent_of
from abmesh.kube.status import percentages, points
from controller.cluster.names import full_name
from controller.records import DecisionRecord, ExperimentState, Phase, Stage

Fields = dict[str, Any]

LONGEST_REASON: Final = 1000
"""Characters of a reason in a status; the journal has all of it."""

PHASES: Final = {
    Phase.PROGRESSING: "Progressing",
    Phase.PAUSED: "Paused",
    Phase.MANUAL: "Manual",
    Phase.PROMOTED: "Promoted",
    Phase.ROLLED_BACK: "RolledBack",
    Phase.CONCLUDED: "Concluded",
}
_WORDS: Final = {word: phase for phase, word in PHASES.items()}
PENDING: Final = "Pending"


def spec_weights(thing: Mapping[str, Any]) -> dict[str, int]:
    """The weights in an Experiment's spec, in basis points."""
    return points({item["name"]: item["weight"] for item in thing["spec"]["variants"]})


def status_of(thing: Mapping[str, Any]) -> Fields:
    """An Experiment's status; empty if it has none."""
    return dict(thing.get("status") or {})


def epoch_of(thing: Mapping[str, Any]) -> int:
    """The epoch of the leader that wrote an Experiment's status last; 0 if none did."""
    found = (status_of(thing).get("leader") or {}).get("epoch", 0)
    return found if isinstance(found, int) else 0


def unseen_edit(thing: Mapping[str, Any]) -> bool:
    """Whether a person has edited the spec's weights since a leader took notice of them."""
    seen = status_of(thing).get("lastSeenSpecWeights")
    return seen is not None and points(seen) != spec_weights(thing)


def weight_fields(experiment: Experiment, weights: Mapping[str, int], ranges: Mapping[str, Any]) -> Fields:
    """The weights in force, and the buckets of each variant."""
    fields: Fields = {
        "weights": percentages(weights),
        "ranges": {name: [list(part) for part in parts] for name, parts in ranges.items()},
    }
    if experiment.rollout is not None:
        fields["candidateWeight"] = format_percent(weights[experiment.rollout.candidate])
    return fields


def state_fields(state: ExperimentState) -> Fields:
    """What a status says of a rollout, its weights aside."""
    decision = state.decision
    step = sum(1 for each in state.steps if each <= state.stage.weight)
    return {
        "phase": PHASES[state.phase],
        "plan": {
            "candidate": state.candidate,
            "control": state.control,
            "steps": [percent_of(step) for step in state.steps],
        },
        "stage": {
            "id": state.stage.id,
            "index": step,
            "of": len(state.steps),
            "weight": percent_of(state.stage.weight),
            "since": state.stage.started_at.isoformat().replace("+00:00", "Z"),
        },
        "lastDecision": None if decision is None else decision_fields(decision),
    }


def decision_fields(decision: DecisionRecord) -> Fields:
    """A decision as a status has it."""
    fields = {
        "id": decision.id,
        "action": decision.kind.value,
        "cause": decision.cause.value,
        "reason": decision.reason[:LONGEST_REASON],
        "at": decision.at.isoformat().replace("+00:00", "Z"),
        "actor": decision.actor,
    }
    return {**fields, "by": decision.by} if decision.by else fields


def state_of(thing: Mapping[str, Any]) -> ExperimentState | None:
    """The state in an Experiment's status; None if it has none yet.

    Raises:
        StateError: somebody else has changed it so that it cannot be read.
    """
    status = status_of(thing)
    if "stage" not in status:
        return None
    try:
        plan, stage, decision = status["plan"], status["stage"], status.get("lastDecision")
        return ExperimentState(
            phase=_WORDS[status["phase"]],
            candidate=plan["candidate"],
            control=plan["control"],
            steps=tuple(round(step * 100) for step in plan["steps"]),
            weights=points(status["weights"]),
            stage=Stage(id=stage["id"], weight=round(stage["weight"] * 100), started_at=stage["since"]),
            decision=None if decision is None else _decision(decision),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        told = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else repr(error)
        raise StateError(
            f"the status of Experiment {full_name(thing)} cannot be read: {told}; the rollout does not move, but harm "
            f"is still rolled back. Put the status right, or delete the Experiment and apply it again"
        ) from None


def _decision(fields: Mapping[str, Any]) -> DecisionRecord:
    return DecisionRecord(
        id=fields["id"],
        kind=fields["action"],
        cause=fields["cause"],
        reason=fields["reason"],
        at=fields["at"],
        actor=fields.get("actor", "controller"),
        by=fields.get("by", ""),
    )


def difference(before: Any, after: Any) -> Any:
    """The merge patch (RFC 7396) that turns one object into another: what is missing in the other becomes null."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return after
    patch = {name: None for name in before if after.get(name) is None and before[name] is not None}
    for name, value in after.items():
        if value is not None and before.get(name) != value:
            patch[name] = difference(before.get(name), value) if isinstance(before.get(name), Mapping) else value
    return patch
