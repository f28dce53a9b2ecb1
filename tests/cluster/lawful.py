"""What users of a gateway may expect: their variant, and all that the owner of the route has set."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tests.cluster.asking import HOST, OTHER_HOST, Door
from tests.cluster.istio_world import ORIGIN
from tests.cluster.waiting import wait_for


def wrong(door: Door, users: Sequence[str], law: Callable[[str], str], **more: str) -> Counter[str]:
    """How many users were not served by the variant that is theirs, or not told so, by what was wrong."""
    found: Counter[str] = Counter()
    for user, answer in zip(users, door.ask_all(users, **more), strict=True):
        variant = law(user)
        if (answer.status, answer.version, answer.upstream.get("name")) != (200, variant, variant):
            found[f"{answer.status} {answer.version} {answer.upstream.get('name')} instead of {variant}"] += 1
    return found


def check_unassigned(door: Door, stamp: str = "") -> None:
    """Requests without a user, or outside of the Experiment's match: to the control, and not counted.

    Args:
        door: of the gateway.
        stamp: the version that answers name: none, or in the native lane the control.
    """
    for answer in door.ask_all([""] * 100):
        assert (answer.status, answer.version) == (200, stamp)
        assert answer.upstream["name"] == "model-a"
        assert "x-ab-route" not in answer.upstream["headers"], "the mark of evidence"
        assert stamp or "x-ab-slice" not in answer.upstream["headers"]


def check_forged(door: Door, name: str, users: Sequence[str], law: Callable[[str], str], stamp: str = "") -> None:
    """Headers that only we set choose nothing and never arrive. ``name`` is the Experiment's, with its namespace."""
    known = door.ask(users[0]).upstream["headers"]["x-ab-experiment"]
    assert known == name
    forged = {"x_ab_place": "4290272513", "x_ab_slice": "7", "x_ab_route": "mine", "x_model_version": "model-b"}
    for answer in door.ask_all([""] * 50, **forged):
        assert (answer.version, answer.upstream["name"]) == (stamp, "model-a")
        assert answer.upstream["headers"].get("x-ab-route") is None
    user = next(user for user in users if law(user) == "model-a")
    assert door.ask(user, **forged).version == "model-a"


def check_their_settings(door: Door, user: str, mirror: Door, *, of_istio: bool) -> None:
    """Time limit, rewrite, header changes and mirror of the route's owner; retries and CORS, where it is Istio's."""
    key = secrets.token_hex(4)
    answer = door.ask(user, x_try=f"mirror-{key}")
    assert answer.upstream["path"] == "/api/x"
    assert (answer.upstream["headers"]["x-theirs"], answer.headers["x-answered"]) == ("yes", "yes")

    def mirrored() -> bool:
        tries = mirror.ask(path="/tries", x_try=f"mirror-{key}").upstream["tries"]
        return bool(tries == 1)

    wait_for(mirrored, "the request to be mirrored once")
    begun = time.monotonic()
    slow = door.ask(user, x_sleep="4")
    assert slow.status == 504
    assert 1.5 < time.monotonic() - begun < 3.9
    assert slow.version, "Envoy's own answer to an assigned request is stamped"
    if of_istio:
        again = door.ask(user, x_fail="2", x_try=f"retry-{key}")
        assert (again.status, again.upstream["tries"]) == (200, 3)
        asked = door.ask(user, origin=ORIGIN)
        assert asked.headers["access-control-allow-origin"] == ORIGIN
        allowed = door.ask(user, method="OPTIONS", origin=ORIGIN, access_control_request_method="GET")
        assert (allowed.status, allowed.headers["access-control-max-age"]) == (200, "3600")
        assert "access-control-allow-origin" not in door.ask(user, origin="https://elsewhere.example.com").headers


def check_others(door: Door, user: str) -> None:
    """The owner's other rules and hosts never see us, at a gateway of Istio's."""
    beta = door.ask(user, x_user_group="beta")
    assert (beta.version, beta.upstream["name"]) == ("claimed-by-upstream", "model-b")
    other = door.ask(user, host=OTHER_HOST)
    assert (other.version, other.upstream["path"]) == ("claimed-by-upstream", "/v1/x")
    assert "x-ab-experiment" not in other.upstream["headers"]
    assert other.status == door.ask(host=HOST).status
