"""A person at a cluster whose controller ticks whenever the person waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.cluster.place import Cluster
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld


@dataclass
class Person:
    """Uses a world's cluster; time passes only in waiting.

    Attributes:
        alive: whether the controller ticks.
        told: what the person has read while waiting.
    """

    world: ClusterWorld
    alive: bool = True
    told: list[str] = field(default_factory=list)
    now: float = 0.0
    waits: int = 0

    @property
    def place(self) -> Cluster:
        return Cluster(
            self.world.people,
            self.world.namespace,
            self.world.own,
            tell=self.told.append,
            sleep=self._sleep,
            monotonic=lambda: self.now,
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits += 1
        if self.alive:
            self.world.tick(0.01)


def forbid(api: FakeApi, where: str) -> None:
    """Refuse requests with ``where`` in their method and path, as a missing right does."""
    api.fail(403, where, times=1000, reason="Forbidden", message="user ada cannot do that")
