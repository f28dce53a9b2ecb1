"""Who holds a lock, in words."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from abmesh import holders


def test_names_process_command_and_user(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command = Path("/proc/self/comm").read_text().strip()
        user = holders.user_name(os.geteuid())
        assert holders.holder(path) == f"process {os.getpid()} ({command}, user {user})"
    assert "fuser -v" in holders.holder(path)


def test_without_proc_it_says_how_to_find_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()
    monkeypatch.setattr(holders, "_PROC", tmp_path / "none")
    assert f"fuser -v {path}" in holders.holder(path)


def test_a_holder_that_has_ended_left_its_lock_to_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()
    found = path.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    (tmp_path / "locks").write_text(
        f"1: POSIX  ADVISORY  WRITE 1 {device} 0 EOF\n2: FLOCK  ADVISORY  WRITE 99 {device} 0 EOF\n"
    )
    monkeypatch.setattr(holders, "_PROC", tmp_path)
    assert holders.holder(path).startswith("a child of process 99, which has ended")


def test_a_user_without_a_name_is_a_number() -> None:
    assert holders.user_name(3_987_654_321) == "3987654321"
