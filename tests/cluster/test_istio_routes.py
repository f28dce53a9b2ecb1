"""EnvoyFilters that the real istiod pushes to real Envoys: users go by the law, and the routes stay their owners'."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.istio_world import HOST, OTHER_HOST, Json, World, ask, ask_all, make_world
from tests.cluster.waiting import wait_for

USERS = [f"user-{number}" for number in range(2000)]


def _apply(world: World) -> None:
    rendered = world.rendered()
    assert not rendered.refusals, rendered.refusals
    for item in rendered.filters:
        world.cluster.plane.apply(item.body)


def _assigned(world: World, url: str) -> bool:
    return ask(url, USERS[0]).version == world.law(USERS[0])


def _released(url: str) -> bool:
    return ask(url, USERS[0]).version == "claimed-by-upstream"


def _same(world: World, name: str, before: list[Json]) -> bool:
    return world.routes(name) == before


def _wrong(world: World, url: str, users: Sequence[str]) -> Counter[str]:
    """How many users were not served by the variant that is theirs, or not told so, by what was wrong."""
    found: Counter[str] = Counter()
    for user, answer in zip(users, ask_all(url, users), strict=True):
        variant = world.law(user)
        if (answer.status, answer.version, answer.upstream.get("name")) != (200, variant, variant):
            found[f"{answer.status} {answer.version} {answer.upstream.get('name')} instead of {variant}"] += 1
    return found


@pytest.mark.parametrize("users", [300, pytest.param(2000, marks=pytest.mark.soak)])
def test_users_go_by_the_law_and_the_routes_stay_their_owners(cluster: Cluster, namespace: str, users: int) -> None:
    world = make_world(cluster, namespace)
    plane = cluster.plane
    versions = world.versions()
    before = {name: world.routes(name) for name in world.urls}
    plane.apply(world.said)
    _apply(world)
    for name, url in world.urls.items():
        wait_for(partial(_assigned, world, url), f"the first assigned user at {name}")
        assert not _wrong(world, url, USERS[:users]), world.admin(name, "/stats?filter=ext_proc")
        _check_unassigned(url)
        _check_forged(world, url)
        _check_their_settings(url, retries=name == "edge")
    _check_others(world)
    assert world.versions() == versions

    names = [item.key[1] for item in world.rendered().filters]
    plane.kubectl("delete", "envoyfilter", *names, namespace=namespace)
    for name, url in world.urls.items():
        wait_for(partial(_released, url), f"{name} to be as before")
        wait_for(partial(_same, world, name, before[name]), f"the routes of {name} to be as before")
    assert world.versions() == versions


def _check_unassigned(url: str) -> None:
    """Requests without a user, or outside of the Experiment's match: to the control, without a stamp."""
    for answer in ask_all(url, [""] * 100):
        assert (answer.status, answer.version) == (200, "")
        assert answer.upstream["name"] == "model-a"
        assert "x-ab-slice" not in answer.upstream["headers"]


def _check_forged(world: World, url: str) -> None:
    """Headers that only we set choose nothing and never arrive."""
    known = ask(url, USERS[0]).upstream["headers"]["x-ab-experiment"]
    assert known == f"{world.namespace}/chat"
    forged = {"x_ab_place": "4290272513", "x_ab_slice": "7", "x_ab_route": "mine", "x_model_version": "model-b"}
    for answer in ask_all(url, [""] * 50, **forged):
        assert (answer.version, answer.upstream["name"]) == ("", "model-a")
        assert answer.upstream["headers"].get("x-ab-route") is None
    user = next(user for user in USERS if world.law(user) == "model-a")
    assert ask(url, user, **forged).version == "model-a"


def _check_their_settings(url: str, *, retries: bool) -> None:
    """Time limit, retries, rewrite and header changes of the route's owner."""
    user = USERS[0]
    answer = ask(url, user)
    assert answer.upstream["path"] == "/api/x"
    assert (answer.upstream["headers"]["x-theirs"], answer.headers["x-answered"]) == ("yes", "yes")
    begun = time.monotonic()
    slow = ask(url, user, x_sleep="4")
    assert slow.status == 504
    assert 1.5 < time.monotonic() - begun < 3.9
    assert slow.version, "Envoy's own answer to an assigned request is stamped"
    if retries:
        again = ask(url, user, x_fail="2", x_try=f"retry-{url}")
        assert (again.status, again.upstream["tries"]) == (200, 3)


def _check_others(world: World) -> None:
    """The owner's other rules and hosts never see us."""
    url = world.urls["edge"]
    beta = ask(url, USERS[0], x_user_group="beta")
    assert (beta.version, beta.upstream["name"]) == ("claimed-by-upstream", "model-b")
    other = ask(url, USERS[0], host=OTHER_HOST)
    assert (other.version, other.upstream["path"]) == ("claimed-by-upstream", "/v1/x")
    assert "x-ab-experiment" not in other.upstream["headers"]
    assert other.status == ask(url, host=HOST).status
