"""New weights from old ones: for ``abmesh weights`` and for the next step of a rollout. Pure.

Weights map variant names to basis points in the document's order and sum to 10,000, before and after.
"""

from __future__ import annotations

from collections.abc import Mapping

from abmesh.experiment.errors import UnknownName, WeightsError
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import format_weight


def complete(weights: Mapping[str, int], control: str, named: Mapping[str, int]) -> dict[str, int]:
    """All weights, given some of them.

    If one variant is left, it takes the rest. If several are left, the control takes the rest and the others keep
    their weights.

    Args:
        weights: current weights.
        control: name of the control.
        named: new weights, in basis points, of some variants or all.

    Raises:
        UnknownName: there is no such variant.
        WeightsError: no weight is given, or the sum is not 100.
    """
    for name in named:
        if name not in weights:
            raise UnknownName("variant", name, tuple(weights))
    if not named:
        raise WeightsError("no weight is given; write VARIANT=PERCENT, such as model-b=25")
    unnamed = [name for name in weights if name not in named]
    taker = unnamed[0] if len(unnamed) == 1 else control if control in unnamed else None
    result = {name: named.get(name, weight) for name, weight in weights.items()}
    if taker is not None:
        result[taker] = BUCKETS - sum(weight for name, weight in result.items() if name != taker)
    total = sum(result.values())
    if total != BUCKETS or min(result.values()) < 0:
        if taker is not None:
            total -= result.pop(taker)
        shown = " + ".join(f"{name} {format_weight(weight)}" for name, weight in result.items())
        wanted = "at most 100" if taker is not None else "exactly 100"
        raise WeightsError(f"weights must sum to {wanted}; found {shown} = {format_weight(total)}")
    return result


def move_candidate(weights: Mapping[str, int], control: str, candidate: str, target: int) -> dict[str, int]:
    """Weights with the candidate at a target.

    What the candidate gains comes from the control first, then from the other variants, the last one first. What it
    loses goes to the control.

    Args:
        weights: current weights.
        control: name of the control.
        candidate: name of the candidate, which is not the control.
        target: basis points, 0 to 10,000.
    """
    result = dict(weights)
    missing = target - weights[candidate]
    result[candidate] = target
    if missing <= 0:
        result[control] -= missing
        return result
    others = [name for name in reversed(list(weights)) if name not in (control, candidate)]
    for name in (control, *others):
        given = min(missing, result[name])
        result[name] -= given
        missing -= given
    return result
