"""Who leads, and with which epoch."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from abmesh.experiment.errors import StateError
from abmesh.kube.resources import EXPERIMENTS, LEASES
from controller.cluster.lease import ClusterLease, NotLeadingError, Times
from controller.cluster.names import LEASE
from controller.state.lease import Heartbeat
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import OURS, ClusterWorld, wait_for

SHORT = Times(duration=1.0, deadline=0.6, every=0.1)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def _lease(api: FakeApi, clock: Clock, *, epoch: int = 0, times: Times | None = None) -> ClusterLease:
    times = times or Times(duration=10, deadline=6, every=60)
    return ClusterLease(api.client(), OURS, lambda: epoch, times=times, monotonic=clock)


def test_the_first_leader_has_epoch_one_and_the_next_one_more(api: FakeApi) -> None:
    clock = Clock()
    first, second = _lease(api, clock), _lease(api, clock)
    assert first.acquire()
    assert first.stamp == {"epoch": 1, "identity": first.identity}
    first.release()
    assert second.acquire()
    assert second.epoch == 2


def test_a_lease_is_taken_once_it_was_not_renewed_for_its_duration(api: FakeApi) -> None:
    clock = Clock()
    first, second = _lease(api, clock), _lease(api, clock)
    assert first.acquire()
    assert not second.acquire()
    clock.seconds += 9.9
    assert not second.acquire()
    clock.seconds += 0.2
    assert second.acquire()
    assert second.epoch == 2


def test_a_holder_that_did_not_renew_stops_acting_well_before_that(api: FakeApi) -> None:
    clock = Clock()
    lease = _lease(api, clock)
    assert lease.acquire()
    clock.seconds += 5.9
    lease.check()
    clock.seconds += 0.2
    with pytest.raises(NotLeadingError):
        lease.check()
    assert not lease.held


def test_a_deleted_lease_locks_nobody_out(api: FakeApi) -> None:
    clock = Clock()
    first = _lease(api, clock)
    assert first.acquire()
    api.remove(LEASES, OURS, LEASE)
    second = _lease(api, clock, epoch=7)
    assert second.acquire()
    assert second.epoch == 8


def test_of_two_that_try_at_the_same_time_one_leads(api: FakeApi) -> None:
    clock = Clock()
    leases = [_lease(api, clock) for _ in range(8)]
    found: list[bool] = []
    threads = [threading.Thread(target=lambda lease=lease: found.append(lease.acquire())) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]
    assert sum(lease.held for lease in leases) == 1
    for lease in leases:
        lease.release()


def test_it_is_renewed_from_a_thread_and_the_renewals_count(api: FakeApi) -> None:
    lease = ClusterLease(api.client(), OURS, lambda: 0, times=SHORT)
    other = ClusterLease(api.client(), OURS, lambda: 0, times=SHORT)
    assert lease.acquire()
    before = api.read(LEASES, OURS, LEASE)["spec"]["renewTime"]
    assert not other.acquire()
    wait_for(lambda: api.read(LEASES, OURS, LEASE)["spec"]["renewTime"] > before)
    stop = datetime.now(UTC).timestamp() + 1.5
    while datetime.now(UTC).timestamp() < stop:  # longer than its duration
        assert lease.held
        assert not other.acquire()
    lease.release()


def test_a_leader_whose_ticks_do_not_end_lets_go(api: FakeApi) -> None:
    clock = Clock()
    lease = ClusterLease(api.client(), OURS, lambda: 0, times=Times(1000, 900, 0.02), monotonic=clock)
    assert lease.acquire()
    lease.beat(Heartbeat(at=datetime.now(UTC), every=20))
    clock.seconds += 59
    before = api.read(LEASES, OURS, LEASE)["metadata"]["resourceVersion"]
    wait_for(lambda: api.read(LEASES, OURS, LEASE)["metadata"]["resourceVersion"] != before)
    assert lease.held
    clock.seconds += 2
    wait_for(lambda: not lease.held)


def test_a_leader_whose_lease_another_took_stops_at_its_next_renewal(api: FakeApi) -> None:
    lease = ClusterLease(api.client(), OURS, lambda: 0, times=Times(100, 60, 0.02))
    assert lease.acquire()
    present = api.read(LEASES, OURS, LEASE)
    present["spec"]["holderIdentity"] = "another"
    api.put(LEASES, OURS, LEASE, spec=present["spec"])
    wait_for(lambda: not lease.held)


def test_renewals_that_fail_for_a_while_do_not_end_it(api: FakeApi) -> None:
    lease = ClusterLease(api.client(), OURS, lambda: 0, times=Times(100, 60, 0.02))
    assert lease.acquire()
    before = len(api.seen)
    api.fail(503, "PUT", times=3)
    wait_for(lambda: len(api.seen) > before + 10)
    assert lease.held
    lease.release()


def test_without_the_right_to_use_it_nobody_leads_and_the_message_says_which(api: FakeApi) -> None:
    api.fail(403, "leases", times=1, reason="Forbidden", message="leases is forbidden")
    with pytest.raises(StateError, match=r"get leases\.coordination\.k8s\.io abmesh in namespace abmesh"):
        _lease(api, Clock()).acquire()


def test_its_times_have_six_decimals(api: FakeApi) -> None:
    lease = _lease(api, Clock())
    assert lease.acquire()
    spec = api.read(LEASES, OURS, LEASE)["spec"]
    for name in ("renewTime", "acquireTime"):
        assert len(spec[name].partition(".")[2]) == 7
    assert spec["leaseDurationSeconds"] == 10
    lease.release()


def test_a_new_leader_stamps_its_epoch_before_it_decides(world: ClusterWorld, api: FakeApi) -> None:
    world.tick()
    world.restart()
    world.watch()
    assert world.stores.lease.acquire()
    world.stores.attendant.before(world.now)
    assert api.read(EXPERIMENTS, "llm", "chat")["status"]["leader"] == world.stores.lease.stamp
    assert world.stores.lease.epoch == 2
