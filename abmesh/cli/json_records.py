"""The controller's records as the JSON that commands print. Pure; for ``status``, ``journal`` and the demo.

Weights are in percent, times are ISO 8601 text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from abmesh.experiment.quantities import format_percent, format_weight

if TYPE_CHECKING:
    from controller.records import JournalEntry
    from controller.rollout.status import ExperimentStatus


def weights_json(weights: Mapping[str, int]) -> dict[str, float]:
    """Convert weights from basis points to percent."""
    return {name: float(format_weight(points)) for name, points in weights.items()}


def journal_json(entry: JournalEntry) -> dict[str, Any]:
    """Convert a journal entry; ``decision`` is its kind, ``state`` the phase after it."""
    return {
        "at": entry.at.isoformat(),
        "experiment": entry.experiment,
        "decision": entry.kind.value,
        "cause": entry.cause.value,
        "reason": entry.reason,
        "state": entry.phase.value,
        "weights_before": weights_json(entry.weights_before),
        "weights_after": weights_json(entry.weights_after),
        "generation": entry.generation,
        "actor": entry.actor,
        "by": entry.by,
        "note": entry.note,
        "evidence": entry.evidence,
        "judgements": entry.judgements,
        "control": entry.control,
        "goal": entry.goal,
        "secondary_goals": entry.secondary_goals,
        "checks": entry.checks,
        "sources": entry.sources,
        "warmup": (entry.inputs or {}).get("warmup"),
        "id": entry.id,
    }


def status_json(found: ExperimentStatus) -> dict[str, Any]:
    """Convert an experiment's status; ``stage`` is text, ``state`` the phase, ``generation`` the document's."""
    decision = found.decision
    return {
        "experiment": found.experiment,
        "stage": stage_text(found),
        "weights": weights_json(found.weights),
        "state": found.phase,
        "generation": found.generation,
        "last_decision": decision.kind.value if decision else None,
        "reason": decision.reason if decision else None,
        "decided_at": decision.at.isoformat() if decision else None,
        "control_broken": any(item.about == "control" for item in found.remarks),
        "remarks": [item.model_dump(mode="json", exclude_none=True) for item in found.remarks],
        "candidate": found.candidate,
        "step": found.step,
        "steps": found.steps,
        "stage_seconds": found.stage_age.total_seconds() if found.stage_age is not None else None,
        "requests": found.requests,
        "min_requests": found.min_requests,
        "controller": found.leader,
        "controller_last_tick_seconds_ago": found.leader_seconds,
        "controller_error": found.leader_error,
        "failure": found.failure,
        "config_error": found.config_error,
        "state_error": found.state_error,
        "envoys_to_render": {envoy: list(names) for envoy, names in found.stale.items()},
        "envoys_rendering_unknown": list(found.unknown),
        "notes": list(found.notes),
        "unseen": list(found.unseen),
    }


def stage_text(found: ExperimentStatus) -> str:
    """The stage as text: ``step 3 of 6: model-b at 25%``."""
    if found.candidate is None:
        return "no rollout"
    return f"step {found.step} of {found.steps}: {found.candidate} at {format_percent(found.weight)}"
