"""Which weights and ranges of an Experiment are in force, from its spec and its status. Pure.

The server and the controller ask the same function, so a person's edit of the spec is served within the time of a
watch, also while no controller is alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from abmesh.experiment import bucketing
from abmesh.experiment.bucketing import Ranges
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import BUCKETS
from abmesh.kube import status as statuses
from abmesh.kube.objects import parse, read_status
from abmesh.kube.spec import ExperimentSpec
from abmesh.kube.status import ExperimentStatus


class InForce(NamedTuple):
    """What is served.

    Attributes:
        weights: basis points by variant, in the spec's order.
        ranges: the buckets that each variant has; as wide as its weight.
    """

    weights: dict[str, int]
    ranges: dict[str, tuple[tuple[int, int], ...]]


def in_force(spec: ExperimentSpec, status: ExperimentStatus | None) -> InForce:
    """The weights and ranges in force.

    Without a status they are the spec's. If the spec's weights are not those that the controller saw last, somebody
    has changed them, and they are in force, with the fewest users moved. Otherwise the status is.

    Args:
        spec: valid as a whole.
        status: what the controller wrote; None or empty if it has not seen the object yet.
    """
    wanted = spec.weights
    if status is None:
        return _fitted(bucketing.initial_ranges(wanted), wanted)
    known = _covering(status.ranges)
    if edited(spec, status):
        return _fitted(known or bucketing.initial_ranges(wanted), wanted)
    if known is not None:
        return _fitted(known, {name: bucketing.width(known.get(name, ())) for name in wanted}, wanted)
    return _fitted(bucketing.initial_ranges(wanted), _weights(status.weights) or wanted, wanted)


def edited(spec: ExperimentSpec, status: ExperimentStatus) -> bool:
    """Whether somebody changed the spec's weights, or its variants, since the controller last took notice."""
    return _weights(status.last_seen_spec_weights) != spec.weights


def experiment_in_force(item: Mapping[str, Any]) -> Experiment:
    """The experiment that an object stands for, with the weights and ranges in force.

    Args:
        item: the whole object, as the API server gives it.

    Raises:
        DocumentError: its spec or status is refused; names every problem with its field.
    """
    parsed = parse(item)
    found = in_force(parsed.spec, read_status(item))
    return parsed.experiment.at(found.weights, found.ranges)


def _fitted(ranges: Ranges, weights: Mapping[str, int], wanted: Mapping[str, int] | None = None) -> InForce:
    """Ranges fitted to weights, or to the spec's own if those do not fit its variants."""
    if wanted is not None and (weights.keys() != wanted.keys() or sum(weights.values()) != BUCKETS):
        weights = wanted
    chosen = dict(weights) if wanted is None else {name: weights[name] for name in wanted}
    return InForce(chosen, bucketing.reallocate(ranges, chosen))


def _covering(ranges: Mapping[str, tuple[tuple[int, ...], ...]] | None) -> Ranges | None:
    """The status' ranges if they cover every bucket once; None if they do not, or there are none."""
    pairs = {name: tuple((start, stop) for start, stop in sorted(parts)) for name, parts in (ranges or {}).items()}
    position = 0
    for start, stop in sorted(part for parts in pairs.values() for part in parts):
        if start != position or stop <= start:
            return None
        position = stop
    return pairs if position == BUCKETS else None


def _weights(weights: Mapping[str, float] | None) -> dict[str, int] | None:
    try:
        return None if weights is None else statuses.points(weights)
    except ValueError:
        return None
