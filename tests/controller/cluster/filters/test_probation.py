"""Which filter is taken back when the counter of rejects rises."""

from __future__ import annotations

from controller.cluster.filters.plan import Write, body_of, digest_of
from controller.cluster.filters.probation import SECONDS, Probation
from tests.abmesh.mesh.istio.worlds import rendered


def writes() -> tuple[Write, Write, Write]:
    """The filters of a gateway, of its statistics, and of a route."""
    made = []
    for item in rendered().filters:
        body = body_of(item, None)
        made.append(Write(item, body, digest_of(body)))
    gateway, statistics, route = made
    return gateway, statistics, route


def test_one_that_was_written_alone_is_the_culprit() -> None:
    _, _, route = writes()
    probation = Probation()
    probation.begin(3)
    probation.wrote(route, 0.0)
    assert probation.look(3, 1.0) is None
    found = probation.look(4, 2.0)
    assert found is not None
    assert (found.write, found.proved, found.restore) == (route, True, False)
    assert not probation.active
    assert probation.look(9, 2.5) is None, "nothing of ours is left to take back"


def test_of_several_the_newest_route_is_taken_back_and_tried_alone_later() -> None:
    gateway, statistics, route = writes()
    probation = Probation()
    probation.begin(0)
    for number, write in enumerate((gateway, route, statistics)):
        probation.wrote(write, number / 10)
    found = probation.look(1, 1.0)
    assert found is not None
    assert (found.write, found.proved) == (route, False)
    assert not probation.may_write(route.key), "others are still watched"
    assert probation.look(1, 1.0 + SECONDS) is None
    assert not probation.active
    assert probation.may_write(route.key)
    probation.begin(1)
    probation.wrote(route, 10.0)
    again = probation.look(2, 10.5)
    assert again is not None
    assert again.proved
    assert not probation.suspects


def test_one_that_is_quiet_long_enough_is_watched_no_more() -> None:
    _, _, route = writes()
    probation = Probation()
    probation.begin(0)
    probation.wrote(route, 0.0)
    assert probation.look(0, SECONDS) is None
    assert not probation.active
    assert probation.look(1, SECONDS + 1) is None, "somebody else's"


def test_what_was_there_before_is_put_back_once() -> None:
    _, _, route = writes()
    before = {**route.body, "spec": {"priority": 1}}
    changed = Write(route.item, route.body, route.digest, before)
    probation = Probation()
    probation.begin(0)
    probation.wrote(changed, 0.0)
    found = probation.look(1, 0.5)
    assert found is not None
    assert found.restore
    probation.wrote(changed, 0.6, restored=True)
    found = probation.look(2, 1.0)
    assert found is not None
    assert not found.restore


def test_without_a_counter_nothing_is_taken_back_and_a_new_istiod_counts_from_0() -> None:
    _, _, route = writes()
    probation = Probation()
    probation.begin(None)
    probation.wrote(route, 0.0)
    assert probation.look(5, 1.0) is None
    probation.begin(7)
    probation.wrote(route, 0.0)
    assert probation.look(None, 0.2) is None
    assert probation.look(0, 0.3) is None
    assert probation.look(1, 0.4) is not None
