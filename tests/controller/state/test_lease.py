from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from abmesh.experiment.errors import StateError
from controller.state.lease import Lease, leader
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
    assert who.startswith(f"{os.getpid()} on ")
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
