"""The journal's files: read in either order, put aside when full, and never with a gap."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.errors import StateError
from abmesh.experiment.journal_bound import JournalBound
from abmesh.experiment.quantities import Bytes
from controller.state import journal_files
from controller.state.journal import Journal, read
from controller.state.journal_files import LONGEST_LINE, OpenJournal, rotated
from controller.state.journal_reader import Reader
from tests.controller.state.entries import entry

SMALL = JournalBound(max_size=Bytes(100_000), keep=3)
PADDING = {"x": "y" * 30_000}
"""Three entries of this size fill a file."""


def _journal(folder: Path, bound: JournalBound | None = SMALL) -> Journal:
    journal = Journal(folder)
    if bound is not None:
        journal.keep_within(bound)
    return journal


def _append(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        journal.append(entry(str(number), evidence=PADDING), durable=True)


def _ids(path: Path) -> list[int]:
    return [int(item.id) for item in read(path)]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".jsonl")


def test_a_full_file_is_put_aside_and_all_entries_are_read_in_order(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, *range(8))
    assert _names(tmp_path) == ["journal.000001.jsonl", "journal.000002.jsonl", "journal.jsonl"]
    assert all(path.stat().st_size <= SMALL.max_size for path in tmp_path.glob("*.jsonl"))
    assert _ids(journal.path) == list(range(8))
    assert [int(item.id) for item in read(journal.path, limit=4)] == [4, 5, 6, 7]
    with Reader(journal.path) as reader:
        assert [int(item.id) for item in reader.newest_first()] == [*reversed(range(8))]
        assert reader.complete
    assert journal.holds("0")
    assert journal.knows("chat")


def test_the_oldest_file_is_removed_beyond_the_bound_and_what_is_left_is_known_to_be_incomplete(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, *range(20))
    assert _names(tmp_path) == [f"journal.00000{number}.jsonl" for number in (4, 5, 6)] + ["journal.jsonl"]
    assert _ids(journal.path) == list(range(9, 20))
    with Reader(journal.path) as reader:
        assert not reader.complete
    assert not journal.holds("8")


def test_a_smaller_bound_takes_effect_at_the_next_full_file(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, *range(12))
    journal.keep_within(JournalBound(max_size=Bytes(100_000), keep=1))
    _append(journal, 12)
    assert _ids(journal.path) == [9, 10, 11, 12]


def test_nothing_is_put_aside_before_a_document_was_read(tmp_path: Path) -> None:
    _append(_journal(tmp_path, None), *range(8))
    assert _names(tmp_path) == ["journal.jsonl"]


def test_an_entry_larger_than_a_file_is_not_split_and_puts_no_empty_file_aside(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    for number in range(3):
        journal.append(entry(str(number), evidence={"x": "y" * 200_000}), durable=False)
    assert _names(tmp_path) == ["journal.000001.jsonl", "journal.000002.jsonl", "journal.jsonl"]
    assert _ids(journal.path) == [0, 1, 2]


@pytest.mark.parametrize("tail", [b'{"torn', b'{"torn' * 60_000])
def test_a_torn_line_is_cut_off_before_its_file_is_put_aside(tmp_path: Path, tail: bytes) -> None:
    journal = _journal(tmp_path)
    _append(journal, 0, 1, 2)
    with journal.path.open("ab") as file:
        file.write(tail)
    _append(journal, 3)
    assert (tmp_path / "journal.000001.jsonl").read_bytes().endswith(b"\n")
    assert _ids(journal.path) == [0, 1, 2, 3]


def test_a_death_between_putting_aside_and_the_next_entry_loses_nothing(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, 0, 1, 2)
    journal.path.rename(tmp_path / "journal.000001.jsonl")
    assert _ids(journal.path) == [0, 1, 2]
    assert journal.holds("2")
    _append(journal, *range(3, 8))
    assert _ids(journal.path) == list(range(8))
    assert [number for number, _ in rotated(journal.path)] == [1, 2]


def test_a_reader_sees_every_entry_once_whatever_is_put_aside_or_removed_meanwhile(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, *range(8))
    with Reader(journal.path) as forwards, Reader(journal.path) as backwards:
        first, last = forwards.oldest_first(), backwards.newest_first()
        found = [next(first)], [next(last)]
        _append(journal, *range(8, 30))
        assert [int(item.id) for item in [*found[0], *first]] == list(range(8))
        assert [int(item.id) for item in [*found[1], *last]] == [*reversed(range(8))]
    assert _ids(journal.path)[-1] == 29


def test_a_file_that_was_put_aside_after_it_was_opened_is_read_once(tmp_path: Path) -> None:
    """As a reader sees it that opens the file, and lists the others after two more were put aside."""
    journal = _journal(tmp_path)
    _append(journal, *range(5))
    journal.path.rename(tmp_path / "journal.000002.jsonl")
    shutil.copy(tmp_path / "journal.000001.jsonl", tmp_path / "journal.000003.jsonl")
    (tmp_path / "journal.jsonl").hardlink_to(tmp_path / "journal.000002.jsonl")
    assert _ids(journal.path) == list(range(5))


@pytest.mark.parametrize("more", [8, 7], ids=["the file that it opened", "the only file"])
def test_a_reader_sees_entries_in_order_although_what_it_opens_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """Writers put so many files aside between two steps of a reader that the one it knows is gone."""
    journal = _journal(tmp_path, JournalBound(max_size=SMALL.max_size, keep=1))
    _append(journal, *range(6))
    if more == 7:  # as between the rename and the next entry
        journal.path.rename(tmp_path / "journal.000002.jsonl")
    listed: list[object] = []

    def late(path: Path) -> list[tuple[int, Path]]:
        found = rotated(path)
        if not listed:
            listed.append(found)
            _append(journal, *range(6, 6 + more))
        return rotated(path) if more == 8 else found

    monkeypatch.setattr(journal_files, "rotated", late)
    monkeypatch.setattr("controller.state.journal.rotated", rotated)
    found = _ids(journal.path)
    assert found == sorted(found)
    assert found[-1] == 5 + more


def test_a_file_that_is_missing_between_others_is_named(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, *range(11))
    (tmp_path / "journal.000002.jsonl").unlink()
    with pytest.raises(StateError, match=r"journal\.000002\.jsonl: missing, although older and newer files"):
        read(journal.path)


def test_a_file_that_was_put_aside_can_be_read_alone(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, *range(8))
    aside = tmp_path / "journal.000001.jsonl"
    assert _ids(aside) == [0, 1, 2]
    with Reader(aside) as reader:
        assert not reader.complete


def test_a_damaged_line_is_named_with_its_own_file(tmp_path: Path) -> None:
    journal = _journal(tmp_path)
    _append(journal, *range(8))
    aside = tmp_path / "journal.000001.jsonl"
    aside.write_bytes(b"\n" * 30 + aside.read_bytes())
    with pytest.raises(StateError, match=r"journal\.000001\.jsonl:1: damaged"):
        read(journal.path)
    with Reader(journal.path) as reader:
        assert len(list(reader.oldest_first())) == 8
        assert reader.damaged == 30
        assert reader.damaged_places() == tuple(f"{aside}:{number}" for number in range(1, 21))


def test_a_line_that_is_too_long_for_memory_is_damage_in_either_order(tmp_path: Path) -> None:
    journal = _journal(tmp_path, None)
    _append(journal, 1)
    with journal.path.open("ab") as file:
        file.truncate(journal.path.stat().st_size + LONGEST_LINE + 1)  # zeros, as after a power failure
        file.seek(0, 2)
        file.write(b"\n")
    _append(journal, 2)
    with Reader(journal.path) as reader:
        assert [item.id for item in reader.oldest_first()] == ["1", "2"]
        assert reader.damaged_places() == (f"{journal.path}:2",)
    with Reader(journal.path) as reader:
        assert [item.id for item in reader.newest_first()] == ["2", "1"]
        assert reader.damaged_places() == (f"{journal.path}:2",)


@given(
    lines=st.lists(st.integers(0, 40).map(lambda length: b"x" * length + b"\n"), max_size=30),
    tail=st.binary(max_size=40).filter(lambda data: b"\n" not in data),
    block=st.integers(1, 64),
)
def test_backwards_is_forwards_reversed_for_blocks_and_lines_of_any_length(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], tail: bytes, block: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    path.write_bytes(b"".join(lines) + tail)
    with OpenJournal(path, block=block) as files:
        forwards = list(files.oldest_first())
        assert [line.data for line in forwards] == [*lines, *([tail] if tail else [])]
        assert [line.torn for line in forwards] == [False] * len(lines) + [True] * bool(tail)
        assert list(files.newest_first()) == forwards[::-1]
        for number, line in enumerate(forwards, 1):
            assert files.read(line.file, line.offset) == line.data
            assert files.place(line.file, line.offset) == f"{path}:{number}"
