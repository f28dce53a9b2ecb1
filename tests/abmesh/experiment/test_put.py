"""A file that others read whole, whoever writes it and whatever goes wrong."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from unittest.mock import patch

import pytest

from abmesh.atomic import signature
from abmesh.experiment import files
from abmesh.experiment.errors import StoreError


def names(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()}


def test_a_file_is_created_replaced_and_left_alone_if_nothing_changes(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    made = files.put(file, b"one", "the routes file")
    assert made == (True, signature(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o644, "Envoy may be another user"
    assert files.put(file, b"one", "the routes file") == (False, made.signature)
    assert signature(file) == made.signature
    assert files.put(file, b"two", "the routes file").written
    assert file.read_bytes() == b"two"
    assert names(tmp_path) == {"routes.json", ".routes.json.lock"}


def test_a_file_keeps_the_mode_that_somebody_gave_it(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    files.put(file, b"one", "the routes file")
    file.chmod(0o640)
    files.put(file, b"two", "the routes file")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_the_signature_is_of_what_was_written_and_not_of_what_another_put_in_its_place(tmp_path: Path) -> None:
    file, another = tmp_path / "routes.json", tmp_path / "another"

    def flush_late(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):  # the last that a writer does
            another.write_bytes(b"another")
            another.replace(file)

    with patch.object(os, "fsync", side_effect=flush_late):
        done = files.put(file, b"one", "the routes file")
    assert file.read_bytes() == b"another"
    assert done.written
    assert done.signature != signature(file)


def test_copies_of_killed_writers_are_removed(tmp_path: Path) -> None:
    left = tmp_path / f".routes.json.{'a' * 16}.tmp"
    left.write_text("half")
    files.put(tmp_path / "routes.json", b"one", "the routes file")
    assert not left.exists()


def test_a_missing_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write the routes file: no such file"):
        files.put(tmp_path / "gone" / "routes.json", b"one", "the routes file")


def test_a_full_disk_leaves_the_old_file_and_no_copy(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    files.put(file, b"old", "the routes file")
    with (
        patch.object(os, "fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(StoreError, match="no space left"),
    ):
        files.put(file, b"new", "the routes file")
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == {"routes.json", ".routes.json.lock"}


def test_writers_at_the_same_time_leave_one_whole_content(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    contents = [bytes([65 + number]) * 100_000 for number in range(6)]
    failures: list[Exception] = []
    seen: set[bytes] = set()

    def write(content: bytes) -> None:
        try:
            for _ in range(5):
                files.put(file, content, "the routes file")
                seen.add(file.read_bytes())
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert seen <= set(contents)
