"""What an operator's command did, as one sentence without a full stop. Pure.

Called by :mod:`controller.rollout.operations`.

Weights are the candidate's, in basis points; ``by`` is who ran the command, and may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from abmesh.experiment.quantities import format_percent, format_weight


def paused(weight: int, by: str) -> str:
    """The candidate stays at its weight."""
    return f"paused at {format_percent(weight)} by {_operator(by)}"


def resumed(weight: int, by: str) -> str:
    """The rollout continues with a new stage."""
    return f"resumed by {_operator(by)} with a new stage at {format_percent(weight)}"


def promoted(weight: int, target: int, by: str) -> str:
    """The candidate got a larger weight."""
    return f"promoted from {format_percent(weight)} to {format_percent(target)} by {_operator(by)}"


def rolled_back(weight: int, by: str) -> str:
    """The control got all of the candidate's users."""
    return f"rolled back from {format_percent(weight)} by {_operator(by)}"


def weights_set(weights: Mapping[str, int], by: str) -> str:
    """All weights were set by hand."""
    shown = ", ".join(f"{name} {format_weight(points)}" for name, points in weights.items())
    return f"weights set to {shown} by {_operator(by)}; nothing moves until abmesh resume"


def with_note(sentence: str, note: str) -> str:
    """A sentence with the operator's own reason."""
    return f"{sentence}: {note}" if note else sentence


def _operator(by: str) -> str:
    return by or "an operator"
