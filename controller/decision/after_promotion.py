"""How long the emergency stop stays in force after a promotion. Pure."""

from __future__ import annotations

from datetime import datetime

from abmesh.experiment.rollout import Rollout
from controller.records import ExperimentState, Phase


def watch_ends(rollout: Rollout, state: ExperimentState) -> datetime | None:
    """When the emergency stop ends; None where it is not in force, or goes on because the rollout is under way.

    It is the same for a promotion by the last step and for one by hand.
    """
    analysis = rollout.analysis
    if state.phase is not Phase.PROMOTED or state.decision is None or analysis.emergency_stop >= 1:
        return None
    return state.decision.at + analysis.emergency_stop_after_promotion


def watched(rollout: Rollout, state: ExperimentState, now: datetime) -> bool:
    """Whether a promoted candidate is still watched for an outright failure."""
    ends = watch_ends(rollout, state)
    return ends is not None and now < ends and state.stage.weight > 0
