from __future__ import annotations

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
    assert states.revision == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "experiments": {"a": {}}}', "\x00" * 50]
)
def test_a_damaged_file_is_an_error_that_says_what_to_do_and_is_never_taken_for_empty(
    tmp_path: Path, text: str
) -> None:
    store = StateStore(tmp_path)
    store.path.write_text(text)
    with pytest.raises(StateError, match=r"(?s)state\.json: damaged.*backup.*abmesh resume"):
        store.read()
    with store.locked(), pytest.raises(StateError):
        store.write("one", _state())
    assert store.path.read_text() == text


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(StateError, match="cannot be read"):
        StateStore(tmp_path).read()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="--state"), StateStore(tmp_path / "file" / "state").locked():
        pass


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    """Many threads, each of which adds itself to what it read, lose nobody."""

    def add(name: str) -> None:
        store = StateStore(tmp_path)
        with store.locked():
            store.write(name, _state(name))

    threads = [threading.Thread(target=add, args=(f"e{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(StateStore(tmp_path).read().experiments) == 20


def test_a_lock_that_is_not_released_is_an_error(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "lock"),
        pytest.raises(StateError, match="another process"),
        exclusive(tmp_path / "lock", timeout=0.05),
    ):
        pass
    with exclusive(tmp_path / "lock", timeout=0.05):
        pass


def test_the_error_of_a_damaged_file_says_how_to_protect_users_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(StateError, match="abmesh weights EXPERIMENT CANDIDATE=0"):
        StateStore(tmp_path).read()
