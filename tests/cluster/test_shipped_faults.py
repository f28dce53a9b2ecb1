"""What happens to a rollout of the shipped chart when a part of the cluster fails; users notice nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.shipped_world import Shipped, shipped
from tests.cluster.trial import Rollout, until


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Shipped]:
    """The chart, installed once for all of these tests."""
    with shipped(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def rollout(world: Shipped) -> Rollout:
    """A ramp that goes on from test to test."""
    found = Rollout(world)
    found.begin()
    return found


def _leader(world: Shipped) -> tuple[str, int]:
    """The pod that leads, and its process."""
    pod = world.leader()
    return pod, world.cluster.node.process(world.release.namespace, pod, "controller")


async def test_the_leader_is_killed(world: Shipped, rollout: Rollout) -> None:
    async with rollout.through("the leader killed") as trial:
        pod, process = await asyncio.to_thread(_leader, world)
        os.kill(process, signal.SIGKILL)
        trial.edit()
        await until(lambda: world.leader() not in ("", pod), "another controller to lead")


async def test_the_leader_is_frozen_for_longer_than_its_lease_and_wakes(world: Shipped, rollout: Rollout) -> None:
    async with rollout.through("the leader frozen") as trial:
        pod, process = await asyncio.to_thread(_leader, world)
        os.kill(process, signal.SIGSTOP)
        try:
            trial.edit()
            await until(lambda: world.leader() not in ("", pod), "another controller to lead")
            await until(trial.taken, "it to take the edit over")
        finally:
            os.kill(process, signal.SIGCONT)
