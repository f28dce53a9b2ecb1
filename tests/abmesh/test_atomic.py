"""Files that are replaced as a whole, and the locks of their writers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from abmesh import atomic


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("strict_umask")
def test_a_new_file_has_the_umasks_mode_unless_one_is_given(tmp_path: Path) -> None:
    atomic.replace_file(tmp_path / "a", b"1")
    atomic.replace_file(tmp_path / "b", b"1", mode=0o644)
    assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "b")) == (0o600, 0o644)


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o640)
    written = atomic.replace_file(path, b"new", mode=0o644)
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o640)
    assert written == atomic.signature(path)


def test_a_copy_that_a_killed_writer_left_under_a_fixed_name_is_replaced(tmp_path: Path) -> None:
    path, copy = tmp_path / "a", tmp_path / "a.tmp"
    copy.write_bytes(b"half")
    copy.chmod(0o400)
    atomic.replace_file(path, b"new", path=copy, durable=False)
    assert path.read_bytes() == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_a_copy_that_is_not_used_is_removed(tmp_path: Path) -> None:
    with atomic.prepared(tmp_path / "a", b"new") as copy:
        assert copy.path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_write_flushes_file_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    flushed: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    atomic.replace_file(tmp_path / "a", b"new", durable=durable)
    assert flushed == ([False, True] if durable else [])


def test_a_lock_is_shared_only_by_those_who_ask_for_that(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        assert atomic.try_lock(first, shared=True)
        assert atomic.try_lock(second, shared=True)
        assert not atomic.try_lock(second)
        assert not atomic.wait_for_lock(second, 0.02)
    finally:
        os.close(first)
    assert atomic.wait_for_lock(second, 10)
    os.close(second)
