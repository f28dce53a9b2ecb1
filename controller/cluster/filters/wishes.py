"""What Experiments wish of the gateways: who is placed, and whose wishes are not known. Reads Experiments only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.model import Experiment
from abmesh.kube.objects import parse
from abmesh.mesh.istio.placing import place
from abmesh.mesh.istio.wanted import Placed
from controller.cluster.status import status_of

Thing = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What all Experiments wish.

    Attributes:
        managed: those whose filters are kept here.
        unmanaged: those whose filters come from Git.
        unknown: those that are not accepted, and of which no earlier wish is known.
        names: of all.
        resumes: when somebody last asked to go on with one.
    """

    managed: tuple[Placed, ...]
    unmanaged: tuple[Placed, ...]
    unknown: frozenset[str]
    names: frozenset[str]
    resumes: Mapping[str, datetime]


class Wishing:
    """Reads wishes; of an Experiment that is not accepted any more, the last good one counts.

    Args:
        manage: whether any filters are kept here.
    """

    def __init__(self, *, manage: bool = True) -> None:
        self._manage = manage
        self._known: dict[str, tuple[object, Placed, bool]] = {}

    def of(self, things: Mapping[str, Thing], accepted: Mapping[str, Experiment]) -> Wishes:
        """What some Experiments wish.

        Args:
            things: all Experiments.
            accepted: those that can be served, as they are in force.
        """
        known: dict[str, tuple[object, Placed, bool]] = {}
        for name, thing in things.items():
            meta = thing["metadata"]
            before = self._known.get(name)
            if before is not None and before[0] != meta.get("uid"):
                before = None
            if name in accepted:
                try:
                    spec = parse(thing).spec
                    placed = place(meta["namespace"], spec, accepted[name], str(meta.get("creationTimestamp", "")))
                    before = meta.get("uid"), placed, self._manage and spec.manage
                except AbmeshError:  # it was accepted a moment ago, and has just changed
                    pass
            if before is not None:
                known[name] = before
        self._known = known
        return Wishes(
            tuple(placed for _, placed, manage in known.values() if manage),
            tuple(placed for _, placed, manage in known.values() if not manage),
            frozenset(things.keys() - known.keys()),
            frozenset(things),
            {name: at for name, thing in things.items() if (at := _resumed(thing)) is not None},
        )


def signature(things: Mapping[str, Thing]) -> tuple[object, ...]:
    """Changes when a wish may have changed."""
    return tuple(
        (name, thing["metadata"].get("uid"), thing["metadata"].get("generation"), _resumed(thing), _weights(thing))
        for name, thing in things.items()
    )


def _weights(thing: Thing) -> object:
    """What decides the weights in force, where they are part of a filter."""
    if (thing.get("spec") or {}).get("lane") != "native":
        return None
    status = status_of(thing)
    return status.get("ranges"), status.get("weights"), status.get("lastSeenSpecWeights")


def _resumed(thing: Thing) -> datetime | None:
    request = status_of(thing).get("lastRequest") or {}
    if request.get("action") != "resume" or request.get("outcome") != "done":
        return None
    try:
        return datetime.fromisoformat(str(request.get("at")))
    except ValueError:
        return None
