from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from abmesh.experiment.errors import StateError
from controller.records import ExperimentState, Phase, adopt
from controller.state.locks import exclusive
from controller.state.states import StateStore
from tests.controller.support import START, experiment


def _state(stage: str = "s") -> ExperimentState:
    return adopt(experiment(), Phase.PROGRESSING, stage, START)


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert StateStore(tmp_path / "new").read().experiments == {}


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "new")
    with store.locked():
        store.write("one", _state("1"))
        store.write("two", _state("2"))
    states = StateStore(tmp_path / "new").read()
    assert states.experiments == {"one": _state("1"), "two": _state("2")}
    assert (states.restored, states.damaged, states.old) == ({}, {}, "")


def test_a_file_is_readable_json_with_the_state(tmp_path: Path) -> None:
    store = _store(tmp_path, "1")
    found = json.loads(store.path("one").read_text())
    assert (found["version"], found["experiment"], found["state"]["stage"]["id"]) == (2, "one", "1")


def _store(folder: Path, *stages: str) -> StateStore:
    store = StateStore(folder)
    with store.locked():
        for stage in stages:
            store.write("one", _state(stage))
    return store


def test_any_flipped_bit_of_any_byte_is_noticed_and_the_previous_copy_takes_its_place(tmp_path: Path) -> None:
    store = _store(tmp_path, "1", "2")
    path = store.path("one")
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        found = store.read()
        assert found.get("one") == _state("1"), place
        assert "previous copy is whole" in found.restored["one"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 50])
def test_a_damaged_file_without_a_whole_copy_is_an_error_and_never_taken_for_none(
    tmp_path: Path, content: bytes
) -> None:
    store = _store(tmp_path, "1", "2")
    with store.locked():
        store.write("two", _state("2"))
    for path in (store.path("one"), store.path("one").with_name("one.json.previous")):
        path.write_bytes(content)
    found = store.read()
    assert found.experiments == {"two": _state("2")}
    with pytest.raises(StateError, match=r"(?s)one\.json: damaged.*harm is still rolled back.*backup.*abmesh resume"):
        found.get("one")
    assert "abmesh weights one CANDIDATE=0" in found.damage("one")
    assert (found.damage("two"), found.get("three")) == ("", None)


def test_a_write_over_a_damaged_file_keeps_it_and_the_whole_copy(tmp_path: Path) -> None:
    store = _store(tmp_path, "1", "2")
    path = store.path("one")
    path.write_bytes(b"{")
    with store.locked():
        store.write("one", _state("3"))
    assert store.read().get("one") == _state("3")
    assert path.with_name("one.json.damaged").read_bytes() == b"{"
    path.write_bytes(b"{")
    assert store.read().get("one") == _state("1")


def test_a_missing_file_is_restored_from_its_copy(tmp_path: Path) -> None:
    store = _store(tmp_path, "1", "2")
    store.path("one").unlink()
    assert store.read().get("one") == _state("1")
    assert "missing" in store.read().restored["one"]


def test_the_state_of_another_experiment_is_refused(tmp_path: Path) -> None:
    store = _store(tmp_path, "1")
    store.path("one").rename(store.path("two"))
    with pytest.raises(StateError, match="state of another experiment, one"):
        store.read().get("two")


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    store = _store(tmp_path, "1")
    store.path("one").unlink()
    store.path("one").mkdir()
    with pytest.raises(StateError, match="a folder is in its place"):
        store.read().get("one")


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    store = _store(tmp_path, "1")
    path = store.path("one")
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    before = elsewhere.read_bytes()
    path.symlink_to(elsewhere)
    with pytest.raises(StateError, match="symbolic link"):
        store.read().get("one")
    with store.locked(), pytest.raises(StateError, match="symbolic link"):
        store.write("one", _state("2"))
    path.unlink()
    path.with_name("one.json.tmp").symlink_to(elsewhere)
    with store.locked(), pytest.raises(StateError, match=r"one\.json\.tmp: cannot be written: it is a symbolic link"):
        store.write("one", _state("2"))
    assert elsewhere.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="--state"), StateStore(tmp_path / "file" / "state").locked():
        pass


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    """Many threads, each of which counts on from what it read, lose no count."""

    def add() -> None:
        store = StateStore(tmp_path)
        with store.locked():
            known = store.read().get("one")
            store.write("one", _state(f"{int(known.stage.id) + 1 if known else 1}"))

    threads = [threading.Thread(target=add) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert StateStore(tmp_path).read().get("one") == _state("20")


def test_a_lock_that_is_not_released_is_an_error_that_names_its_holder(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "lock"),
        pytest.raises(StateError, match=rf"process {os.getpid()} .* has held this lock for 0.05 s"),
        exclusive(tmp_path / "lock", timeout=0.05),
    ):
        pass
    with exclusive(tmp_path / "lock", timeout=0.05):
        pass


class TestEarlierVersions:
    """``state.json`` of versions up to 0.1."""

    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        path = tmp_path / "state.json"
        states = {name: json.loads(_state(name).model_dump_json()) for name in ("one", "two")}
        path.write_text(json.dumps({"version": 1, "revision": 7, "experiments": states}))
        return path

    def test_its_states_are_read_until_they_have_files_of_their_own(self, tmp_path: Path, old: Path) -> None:
        store = StateStore(tmp_path)
        assert store.read().experiments == {"one": _state("one"), "two": _state("two")}
        with store.locked():
            store.write("one", _state("newer"))
        assert store.read().experiments == {"one": _state("newer"), "two": _state("two")}
        assert old.exists()

    def test_it_is_put_aside_once_every_state_has_its_file(self, tmp_path: Path, old: Path) -> None:
        store = StateStore(tmp_path)
        with store.locked():
            store.write("one", _state("newer"))
        before = old.read_bytes()
        assert "file of its own" in store.migrate()
        assert store.read().experiments == {"one": _state("newer"), "two": _state("two")}
        assert not old.exists()
        assert old.with_name("state.json.migrated").read_bytes() == before
        assert store.migrate() == ""

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "experiments": {"a": {}}}', "\x00" * 50]
    )
    def test_a_damaged_one_stops_every_rollout_without_a_file_of_its_own(
        self, tmp_path: Path, old: Path, text: str
    ) -> None:
        store = StateStore(tmp_path)
        with store.locked():
            store.write("one", _state("1"))
        old.write_text(text)
        found = store.read()
        assert found.get("one") == _state("1")
        with pytest.raises(StateError, match=r"(?s)state\.json: damaged.*backup.*abmesh resume"):
            found.get("two")
        assert "abmesh weights EXPERIMENT CANDIDATE=0" in found.damage("two")
        with pytest.raises(StateError, match="damaged"):
            store.migrate()
        assert old.read_text() == text
