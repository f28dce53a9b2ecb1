from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from abmesh.experiment.errors import StateError
from controller.state.lease import Heartbeat, Lease, leader
from controller.state.locks import exclusive


def test_one_leads_and_the_other_stands_by_until_the_first_is_gone(tmp_path: Path) -> None:
    first, second = Lease(tmp_path / "state"), Lease(tmp_path / "state")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert (first.held, second.held) == (True, False)
    first.release()
    assert second.acquire()
    second.release()


def test_reading_who_leads_does_not_take_the_lease(tmp_path: Path) -> None:
    assert leader(tmp_path) is None
    lease = Lease(tmp_path)
    assert lease.acquire()
    who = leader(tmp_path)
    assert who is not None
    assert who.process.startswith(f"{os.getpid()} on ")
    lease.release()
    assert leader(tmp_path) is None
    assert lease.acquire()
    lease.release()


def test_a_lock_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "leader.lock").mkdir()
    with pytest.raises(StateError, match="cannot be opened"):
        Lease(tmp_path).acquire()


@pytest.mark.parametrize("call", ["truncate", "pwrite"])
def test_a_full_disk_does_not_keep_a_controller_from_leading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"controller.state.lease.os.{call}", full)
        lease = Lease(tmp_path)
        assert lease.acquire()
    lease.release()
    assert Lease(tmp_path).acquire()


def test_a_file_system_without_locks_is_an_error_that_leaks_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("abmesh.atomic.fcntl.flock", none)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(StateError, match="file system with locks"):
        Lease(tmp_path).acquire()
    with pytest.raises(StateError, match="file system with locks"), exclusive(tmp_path / "lock"):
        pass
    assert set(Path("/proc/self/fd").iterdir()) == before


NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def test_the_heartbeat_tells_how_old_the_last_tick_is(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    lease.beat(Heartbeat(at=NOW, every=1))  # nothing: it does not lead
    assert lease.acquire()
    lease.beat(Heartbeat(at=NOW, every=2, failures={"chat": "x" * 5000}))
    lease.beat(Heartbeat(at=NOW, every=2, error="a short one"))
    found = leader(tmp_path)
    assert found is not None
    assert found == lease.leader()
    assert found.heartbeat == Heartbeat(at=NOW, every=2, error="a short one")
    assert found.age(NOW + timedelta(seconds=6)) == 6
    assert not found.stalled(NOW + timedelta(seconds=6))
    assert found.stalled(NOW + timedelta(seconds=7))
    assert found.age(NOW - timedelta(seconds=5)) == 0
    lease.release()


def test_a_leader_that_hangs_before_its_first_tick_ends_is_noticed(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert lease.acquire()
    found = lease.leader()
    assert found.heartbeat is None
    assert not found.stalled(datetime.now(UTC))
    assert found.stalled(datetime.now(UTC) + timedelta(minutes=1))
    lease.release()


@pytest.mark.parametrize("content", ["", "1 on elsewhere\n{", "nonsense\n[]\n\xff"])
def test_whatever_the_file_holds_is_read(tmp_path: Path, content: str) -> None:
    lease = Lease(tmp_path)
    assert lease.acquire()
    (tmp_path / "leader.lock").write_text(content)
    assert lease.leader().heartbeat is None
    lease.release()


def test_a_process_that_keeps_the_lock_and_is_no_controller_is_named(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert lease.acquire()
    lease.release()
    text = (tmp_path / "leader.lock").read_text().replace(f"{os.getpid()} ", "1 ")
    with exclusive(tmp_path / "leader.lock"):
        (tmp_path / "leader.lock").write_text(text)
        found = leader(tmp_path)
        assert found is not None
        assert found.intruder.startswith(f"process {os.getpid()} (")
        assert found.stalled(datetime.now(UTC))
        with (tmp_path / "leader.lock").open("a") as file:  # as a controller does whose processes are numbered anew
            file.write(Heartbeat(at=NOW, every=2).model_dump_json() + "\n")
        found = leader(tmp_path)
        assert found is not None
        assert not found.stalled(NOW + timedelta(seconds=6))
        assert found.stalled(NOW + timedelta(seconds=7))


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "leader.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match=r"leader\.lock: cannot be opened: it is a symbolic link"):
        Lease(tmp_path).acquire()
    assert not (tmp_path / "elsewhere").exists()
