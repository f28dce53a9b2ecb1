from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.people import Person
from tests.controller.cluster.support import ClusterWorld
from tests.controller.support import serve_and_tick


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().running() as running:
        yield running


@pytest.fixture
def world(api: FakeApi) -> Iterator[ClusterWorld]:
    found = ClusterWorld(api.client)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def person(world: ClusterWorld) -> Person:
    """A rollout at its first step, judged."""
    for _ in range(100):
        if world.weight() == 1000:
            break
        serve_and_tick(world, 1)
    serve_and_tick(world, 8, good=40)
    return Person(world)
