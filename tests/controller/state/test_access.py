"""Nobody but its users may open the state folder, its files and locks."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from abmesh.experiment.errors import SettingsError, StateError
from controller.codec.entries import refused_entry
from controller.evidence.coverage import Coverage
from controller.records import JournalEntry, Phase, adopt
from controller.state.access import secure
from controller.state.evidence import EvidenceStore, StageEvidence
from controller.state.journal import Journal
from controller.state.lease import Lease
from controller.state.locks import exclusive
from controller.state.states import StateStore
from tests.controller.support import START, experiment

GROUP = grp.getgrgid(os.getegid()).gr_name

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(autouse=True)
def wide_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def entry() -> JournalEntry:
    state = adopt(experiment(), Phase.PROGRESSING, "s", START)
    return refused_entry("1", "one", state, "nonsense", Coverage(1), START)


def _use(folder: Path) -> None:
    """Whatever is ever kept."""
    store = StateStore(folder)
    with store.locked():
        for _ in range(2):
            store.write("one", adopt(experiment(), Phase.PROGRESSING, "s", START))
    EvidenceStore(folder).write("one", StageEvidence("s"))
    Journal(folder).append(entry(), durable=True)
    lease = Lease(folder)
    assert lease.acquire()
    lease.release()


def _modes(folder: Path) -> dict[str, int]:
    return {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")] if not path.is_symlink()
    }


FILES = {
    "state.lock",
    "one.json",
    "one.json.previous",
    "one.bin",
    "journal.jsonl",
    "journal.lock",
    "leader.lock",
}
FOLDERS = {"state", "rollouts", "evidence"}


def test_all_that_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert secure(folder) == []
    _use(folder)
    assert _modes(folder) == dict.fromkeys(FILES, 0o600) | dict.fromkeys(FOLDERS, 0o700)


def test_a_command_that_makes_the_folder_makes_it_so_too(tmp_path: Path) -> None:
    _use(tmp_path / "state")
    assert _modes(tmp_path / "state") == dict.fromkeys(FILES, 0o600) | dict.fromkeys(FOLDERS, 0o700)


def test_nobody_else_can_put_another_folder_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / ".abmesh" / "experiments"
    secure(folder)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o755


@as_root
def test_a_folder_for_state_folders_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ".abmesh" / "experiments"
    folder.parent.mkdir()
    os.chown(folder.parent, 65534, 65534)
    with pytest.raises(StateError, match="belongs to user nobody, who could put another folder in the place"):
        secure(folder)
    os.chown(tmp_path, 65534, 65534)  # the document's owner
    secure(folder)


def test_with_a_group_its_members_may_use_all_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert secure(folder, GROUP) == []
    _use(folder)
    assert _modes(folder) == dict.fromkeys(FILES, 0o660) | dict.fromkeys(FOLDERS, 0o2770)


def test_what_an_earlier_version_left_open_is_closed_with_a_line_for_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    _use(folder)
    folder.chmod(0o755)
    (folder / "evidence").chmod(0o755)
    (folder / "leader.lock").chmod(0o644)
    first, second = secure(folder)
    assert "others could open it (mode 0755); it is 0700 now" in first
    assert "others could open evidence, leader.lock;" in second
    assert _modes(folder) == dict.fromkeys(FILES, 0o600) | dict.fromkeys(FOLDERS, 0o700)
    assert secure(folder) == []


def test_a_lock_that_others_could_open_is_closed_by_whoever_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch(0o644)
    with exclusive(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@as_root
def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(0o777)
    os.chown(folder, 4321, -1)
    with pytest.raises(StateError, match=r"belongs to user 4321, but this is user .* chown, or choose another"):
        secure(folder)


@as_root
def test_somebody_elses_folder_is_accepted_if_only_the_group_may_use_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o2770)
    os.chown(folder, 4321, os.getegid())
    folder.chmod(0o2770)
    secure(folder, GROUP)
    folder.chmod(0o2777)
    with pytest.raises(StateError, match="belongs to user 4321"):
        secure(folder, GROUP)


@as_root
def test_somebody_elses_file_in_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    _use(folder)
    os.chown(folder / "state.lock", 4321, -1)
    with pytest.raises(StateError, match=r"state\.lock: belongs to user 4321, who may not use this folder; remove it"):
        secure(folder)


@as_root
def test_a_file_that_a_member_of_the_group_made_is_accepted(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    secure(folder, GROUP)
    _use(folder)
    os.chown(folder / "state.lock", 4321, -1)
    secure(folder, GROUP)
    with pytest.raises(StateError, match="belongs to user 4321"):
        secure(folder)


@as_root
@pytest.mark.process
def test_a_member_of_the_group_can_use_all_of_it_and_nobody_else_can(open_path: Path) -> None:
    folder = open_path / "state"
    group = 4322
    folder.mkdir()
    os.chown(folder, 4321, group)
    folder.chmod(0o2770)

    def as_user(uid: int, gid: int) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(gid)
                os.setuid(uid)
                _use(folder)
                code = 0
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert [as_user(4321, group), as_user(4400, group), as_user(4321, group)] == [0, 0, 0]
    assert as_user(4400, 4400) == 1
    assert {path.stat().st_gid for path in folder.rglob("*")} == {group}


@pytest.fixture
def open_path(short_path: Path) -> Path:
    short_path.chmod(0o755)
    return short_path


@as_root
def test_what_root_makes_in_the_controllers_folder_is_the_controllers(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    secure(folder)
    os.chown(folder, 4321, 4321)
    _use(folder)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in folder.rglob("*")} == {(4321, 4321)}


def test_a_group_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no group 'nobody-has-this'"):
        secure(tmp_path / "state", "nobody-has-this")


def test_links_are_left_alone(tmp_path: Path) -> None:
    folder, outside = tmp_path / "state", tmp_path / "outside"
    outside.touch(0o644)
    folder.mkdir(0o700)
    (folder / "journal.jsonl").symlink_to(outside)
    assert secure(folder) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    with pytest.raises(StateError, match="cannot be written"):
        Journal(folder).append(entry(), durable=True)
    assert outside.read_bytes() == b""


def test_a_folder_that_holds_the_document_stays_open_and_so_does_the_document(tmp_path: Path) -> None:
    _use(tmp_path)
    document = tmp_path / "experiments.yaml"
    document.touch(0o644)
    tmp_path.chmod(0o755)
    (tmp_path / "state.lock").chmod(0o644)
    first, second = secure(tmp_path, public=[document])
    assert "holds experiments.yaml, which others read" in first
    assert "others could open state.lock;" in second
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, document)] == [0o755, 0o644]
