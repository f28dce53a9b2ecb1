"""Whole rollouts by the shipped chart: its controller and servers as pods, four gateways, and users who are there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.istio_world import MIRROR, model_of, variant_of
from tests.cluster.lawful import check_forged, check_others, check_their_settings, check_unassigned, wrong
from tests.cluster.shipped_world import Shipped, shipped

USERS = [f"user-{number}" for number in range(2000)]


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Shipped]:
    """The chart, installed once for all of these tests."""
    with shipped(cluster) as made:
        yield made


@pytest.mark.parametrize("users", [300, pytest.param(2000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("lane", ["ext_proc"])
def test_users_of_four_gateways_go_by_the_law_and_the_routes_stay_their_owners(
    world: Shipped, lane: str, users: int
) -> None:
    versions = world.their_versions()
    mirror = model_of(world.cluster, world.namespace, MIRROR)
    world.apply(world.experiment("chat", lane=lane))
    world.wait_until_programmed("chat")
    found = world.in_force("chat")

    def law(user: str) -> str:
        return variant_of(found, user)

    for name, gateway in world.gateways.items():
        assert not wrong(gateway.door, USERS[:users], law), name
        check_unassigned(gateway.door)
        check_forged(gateway.door, f"{world.namespace}/chat", USERS, law)
        check_their_settings(gateway.door, USERS[0], mirror, of_istio=name != "inner")
    check_others(world.gateways["edge"].door, USERS[0])
    assert world.their_versions() == versions
    world.delete("chat")
    assert world.their_versions() == versions
