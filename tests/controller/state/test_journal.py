from __future__ import annotations

import json
from pathlib import Path

import pytest

from abmesh.experiment.errors import StateError
from controller.state.journal import Journal, read, salvage
from tests.controller.state.entries import entry


def _write(folder: Path, *ids: str) -> Path:
    journal = Journal(folder)
    for entry_id in ids:
        journal.append(entry(entry_id), durable=True)
    return folder / "journal.jsonl"


def test_entries_come_back_in_order_as_they_were_written(tmp_path: Path) -> None:
    path = _write(tmp_path / "new", "1", "2", "3")
    assert read(path) == [entry("1"), entry("2"), entry("3")]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["1", "2", "3"]


def test_no_file_is_no_entries(tmp_path: Path) -> None:
    assert read(tmp_path / "journal.jsonl") == []
    assert not Journal(tmp_path).holds("1")


def test_the_newest_entries_of_one_experiment_can_be_asked_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(10):
        journal.append(entry(str(number), experiment=("even", "odd")[number % 2]), durable=False)
    assert [item.id for item in read(journal.path, "odd", 2)] == ["7", "9"]
    assert [item.id for item in read(journal.path, limit=1)] == ["9"]
    assert read(journal.path, limit=0) == []
    assert journal.knows("odd")
    assert not journal.knows("od")


@pytest.mark.parametrize("keep", [1, 20, 200])
def test_a_torn_last_line_is_left_out_when_reading_and_cut_off_when_writing(tmp_path: Path, keep: int) -> None:
    path = _write(tmp_path, "1", "2")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + keep])
    assert [item.id for item in read(path)] == ["1"]
    assert not Journal(tmp_path).holds("2")
    _write(tmp_path, "3")
    assert [item.id for item in read(path)] == ["1", "3"]


def test_a_last_line_that_lacks_only_its_end_is_completed(tmp_path: Path) -> None:
    path = _write(tmp_path, "1", "2")
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert Journal(tmp_path).holds("2")
    _write(tmp_path, "3")
    assert [item.id for item in read(path)] == ["1", "2", "3"]


def test_a_journal_that_is_only_a_torn_line_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"id": "1", ' + b"x" * 100_000)
    _write(tmp_path, "2")
    assert [item.id for item in read(path)] == ["2"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "1")
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(StateError, match=r"journal\.jsonl:1: damaged"):
        read(path)
    assert Journal(tmp_path).holds("1")


def test_an_id_in_a_reason_is_not_an_entry_of_that_id(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry("1", reason="after 22"), durable=True)
    assert journal.holds("1")
    assert not journal.holds("22")
    assert not journal.holds("2")


def test_keys_of_a_later_version_do_not_stop_reading(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({**json.loads(entry("1").model_dump_json()), "new": 3}) + "\n")
    assert read(path) == [entry("1")]


def test_a_journal_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        _write(tmp_path, "1")


def test_what_can_be_read_of_a_damaged_journal_comes_with_the_numbers_of_the_lines_that_cannot(tmp_path: Path) -> None:
    path = _write(tmp_path, "1", "2")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"nonsense\n" + second + b"\xff\n" + b'{"torn')
    reading = salvage(path)
    assert [item.id for item in reading.entries] == ["1", "2"]
    assert reading.damaged == (f"{path}:2", f"{path}:4")
    assert [item.id for item in salvage(path, "chat", 1).entries] == ["2"]
