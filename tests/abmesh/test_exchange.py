"""A file is replaced only if it still is what it was; whoever saved it in between keeps what they saved."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from abmesh import exchange

BASE, OURS, THEIRS, LATER = b"base", b"ours", b"theirs", b"theirs, later"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "document"
    path.write_bytes(BASE)
    return path


def _copy(target: Path) -> Path:
    path = target.with_name("copy")
    path.write_bytes(OURS)
    return path


def _save(target: Path, content: bytes) -> None:
    """As editors do that replace the file."""
    draft = target.with_name("draft")
    draft.write_bytes(content)
    draft.replace(target)


def _between(monkeypatch: pytest.MonkeyPatch, *actions: Callable[[], object] | None) -> None:
    """Somebody acts right before each swap; None: nobody does."""
    real, waiting = exchange.swap_names, list(actions)

    def swap(first: Path, second: Path) -> None:
        if waiting and (action := waiting.pop(0)):
            action()
        real(first, second)

    monkeypatch.setattr(exchange, "swap_names", swap)


def test_what_was_expected_is_replaced(target: Path) -> None:
    copy = _copy(target)
    assert exchange.compare_and_swap(copy, target, BASE, OURS)
    assert (target.read_bytes(), copy.read_bytes()) == (OURS, BASE)


def test_a_save_right_before_the_swap_stays(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = _copy(target)
    _between(monkeypatch, lambda: _save(target, THEIRS))
    assert not exchange.compare_and_swap(copy, target, BASE, OURS)
    assert (target.read_bytes(), copy.read_bytes()) == (THEIRS, OURS)


def test_of_two_saves_around_the_swap_the_later_is_in_place_and_the_earlier_is_not_lost(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _copy(target)
    _between(monkeypatch, lambda: _save(target, THEIRS), lambda: _save(target, LATER))
    assert not exchange.compare_and_swap(copy, target, BASE, OURS)
    assert (target.read_bytes(), copy.read_bytes()) == (LATER, THEIRS)


def test_a_save_into_our_file_before_it_is_taken_out_again_stays(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = _copy(target)
    _between(monkeypatch, lambda: _save(target, THEIRS), lambda: target.write_bytes(LATER))
    assert not exchange.compare_and_swap(copy, target, BASE, OURS)
    assert (target.read_bytes(), copy.read_bytes()) == (LATER, THEIRS)


def test_a_file_that_somebody_has_open_for_writing_goes_back_whatever_it_holds(target: Path) -> None:
    copy = _copy(target)
    with target.open("r+b") as theirs:
        assert not exchange.compare_and_swap(copy, target, BASE, OURS)
        theirs.write(THEIRS)
    assert (target.read_bytes(), copy.read_bytes()) == (THEIRS, OURS)


def test_somebody_who_only_reads_keeps_nobody_from_writing(target: Path) -> None:
    copy = _copy(target)
    with target.open("rb"):
        assert exchange.compare_and_swap(copy, target, BASE, OURS)


def test_where_leases_are_not_to_be_had_a_writer_is_waited_for(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EINVAL, "no leases")

    monkeypatch.setattr("abmesh.exchange.fcntl.fcntl", none)
    with target.open("r+b", buffering=0) as theirs:
        monkeypatch.setattr("abmesh.exchange.time.sleep", lambda _: theirs.write(THEIRS) if theirs.tell() == 0 else 0)
        assert not exchange.compare_and_swap(_copy(target), target, BASE, OURS)
    assert target.read_bytes() == THEIRS


def test_somebody_who_saves_at_every_swap_is_never_overwritten(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, saved = _copy(target), [0]

    def save() -> None:
        saved[0] += 1
        _save(target, b"save %d" % saved[0])

    _between(monkeypatch, *[save] * 200)
    with pytest.raises(exchange.Unsettled):
        exchange.compare_and_swap(copy, target, BASE, OURS)
    found = {target.read_bytes(), copy.read_bytes()}
    assert found == {b"save %d" % saved[0], b"save %d" % (saved[0] - 1)}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_a_system_that_cannot_swap_names_says_so_before_anything_is_done(
    target: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(exchange, "_renameat2", lambda: refuse)
    with pytest.raises(exchange.Unsupported):
        exchange.compare_and_swap(_copy(target), target, BASE, OURS)
    assert target.read_bytes() == BASE
    monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    with pytest.raises(exchange.Unsupported):
        exchange.swap_names(target, target)


def test_a_c_library_that_does_not_know_the_call_yet_is_bypassed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ctypes.CDLL(None, use_errno=True)

    class Old:
        syscall = library.syscall

    exchange._renameat2.cache_clear()
    monkeypatch.setattr("abmesh.exchange.ctypes.CDLL", lambda *_, **__: Old)
    copy = _copy(target)
    try:
        assert exchange.compare_and_swap(copy, target, BASE, OURS)
        assert target.read_bytes() == OURS
    finally:
        exchange._renameat2.cache_clear()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        exchange.swap_names(tmp_path / "a", tmp_path / "b")


def test_no_descriptor_leaks(target: Path) -> None:
    before = list(Path("/proc/self/fd").iterdir())
    for _ in range(20):
        target.write_bytes(BASE)
        exchange.compare_and_swap(_copy(target), target, BASE, OURS)
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
