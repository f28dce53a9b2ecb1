"""Parts of the sentences in which decisions are explained.

Pure; for :mod:`controller.decision.policy` and the commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from abmesh.experiment.quantities import format_duration, format_weight
from controller.evidence.coverage import Coverage


def percent(points: int) -> str:
    """A weight in basis points as people read it: ``12.5%``."""
    return f"{format_weight(points)}%"


def missing(coverage: Coverage) -> str:
    """Which Envoys did not answer, and why."""
    if coverage.total == 0:
        return "there is no Envoy to ask"
    shown = ", ".join(f"{envoy} ({why})" for envoy, why in coverage.absent[:3])
    more = f" and {len(coverage.absent) - 3} more" if len(coverage.absent) > 3 else ""
    return f"{coverage.answered} of {coverage.total} Envoys answered; not {shown}{more}"


def weights_text(weights: Mapping[str, int]) -> str:
    """Weights by variant: ``model-a 90%, model-b 10%``."""
    return ", ".join(f"{name} {percent(points)}" for name, points in weights.items())


def steps_text(steps: Sequence[int]) -> str:
    """Steps as the document has them: ``[5, 25, 100]``."""
    return "[" + ", ".join(format_weight(step) for step in steps) + "]"


def age_text(age: timedelta) -> str:
    """An age in whole seconds; tenths only below ten seconds, where they matter."""
    step = timedelta(seconds=1) if age >= timedelta(seconds=10) else timedelta(milliseconds=100)
    return format_duration(age // step * step)
