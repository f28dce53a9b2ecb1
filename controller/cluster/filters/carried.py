"""Which buckets the filters that are applied hold, and since when. The keeper notes it, and ticks' thread asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from abmesh.experiment.bucketing import Ranges
from abmesh.experiment.model import Experiment
from abmesh.mesh.istio.wanted import Placed
from controller.cluster.conditions import Programming
from controller.rollout.serving import Served


class Carried:
    """Buckets of Experiments that are programmed."""

    def __init__(self) -> None:
        self._known: Mapping[str, tuple[Ranges, datetime]] = {}

    def note(self, placed: Iterable[Placed], said: Mapping[str, Programming], now: datetime) -> None:
        """Note what is applied now.

        Args:
            placed: what was rendered.
            said: whether that is in force, by Experiment.
            now: the time.
        """
        found = {}
        for item in placed:
            name, ranges = item.experiment.name, item.experiment.effective_ranges
            if name in said and said[name].truth == "True":
                before = self._known.get(name)
                found[name] = before if before is not None and before[0] == ranges else (ranges, now)
        self._known = found

    def clear(self) -> None:
        """Know nothing any more."""
        self._known = {}

    def of(self, experiment: Experiment, said: Programming | None) -> Served:
        """Whether an Experiment's buckets are applied, and since when."""
        known = self._known.get(experiment.name)
        if known is not None and known[0] == experiment.effective_ranges:
            return Served(since=known[1])
        why = f": {said.message}" if said is not None and said.truth != "True" else " yet"
        return Served(f"the EnvoyFilters with its weights are not applied{why}")
