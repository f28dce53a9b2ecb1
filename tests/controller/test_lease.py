from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.lease import Lease, leader
from experiment.errors import StateError


def test_one_leads_and_the_other_stands_by_until_the_first_is_gone(tmp_path: Path) -> None:
    first, second = Lease(tmp_path / "state"), Lease(tmp_path / "state")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert (first.held, second.held) == (True, False)
    first.release()
    assert second.acquire()
    second.release()


def test_anybody_can_see_who_leads_without_becoming_it(tmp_path: Path) -> None:
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
