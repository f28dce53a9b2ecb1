"""The document as a file: reading, compare-and-swap, many writers at once."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import psutil
import pytest

from abmesh import exchange
from abmesh.atomic import signature
from abmesh.experiment import files, saves
from abmesh.experiment.errors import Conflict, DocumentError, StoreError, UnknownName, WeightsError
from abmesh.experiment.store import FileStore, Snapshot, format_generation, generation_of
from tests.abmesh.experiment.documents import SMALL, THREE
from tests.paths import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "experiments.yaml"
    file.write_text(SMALL)
    return file


@pytest.fixture
def store(path: Path) -> FileStore:
    return FileStore(path)


def only_the_document_and_its_lock(path: Path) -> bool:
    return {item.name for item in path.parent.iterdir()} <= {path.name, f".{path.name}.lock"}


class TestGeneration:
    def test_is_the_first_52_bits_of_xxhash64(self) -> None:
        # xxh64 of nothing is EF46DB3751D8E999, the reference implementation's own test vector.
        assert format_generation(generation_of(b"")) == "ef46db3751d8e"

    def test_is_exact_as_a_float(self) -> None:
        assert int(float((1 << 52) - 1)) == (1 << 52) - 1
        assert format_generation(1) == "0000000000001"


class TestRead:
    def test_gives_document_text_and_generation(self, store: FileStore) -> None:
        snapshot = store.read()
        assert snapshot.text == SMALL
        assert snapshot.generation == generation_of(SMALL.encode())
        assert snapshot.document.experiment("chat").weights == {"model-a": 9000, "model-b": 1000}

    def test_sees_every_change(self, store: FileStore, path: Path) -> None:
        first = store.read()
        assert store.read() is first
        path.write_text(THREE)
        assert store.read().text == THREE

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            StoreError, match=r"nowhere\.yaml: cannot read the experiments document: no such file; name another with"
        ):
            FileStore(tmp_path / "nowhere.yaml").read()

    def test_a_folder_a_pipe_and_a_loop_of_links_are_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop").symlink_to("loop")
        for name in (".", "pipe", "loop"):
            with pytest.raises(StoreError):
                FileStore(tmp_path / name).read()

    def test_bytes_that_are_not_utf_8_are_reported_with_their_line(self, store: FileStore, path: Path) -> None:
        path.write_bytes(b"version: 1\n# caf\xe9\n")
        with pytest.raises(DocumentError, match=r"experiments\.yaml:2: not UTF-8; found byte 0xe9"):
            store.read()

    def test_a_file_over_1_mib_is_refused(self, store: FileStore, path: Path) -> None:
        path.write_bytes(b"#" * (1 << 20) + b"\n")
        with pytest.raises(DocumentError, match="too large"):
            store.read()

    def test_a_bad_document_is_refused_every_time(self, store: FileStore, path: Path) -> None:
        path.write_text("version: 3\n")
        errors = []
        for _ in range(2):
            with pytest.raises(DocumentError) as caught:
                store.read()
            errors.append(caught.value)
        assert errors[0].problems == errors[1].problems


class TestWriteWeights:
    def test_changes_the_weights_and_nothing_else(self, store: FileStore, path: Path) -> None:
        written = store.write_weights("chat", {"model-a": 7500, "model-b": 2500}, based_on=store.read().generation)
        assert path.read_text() == SMALL.replace("90", "75").replace("10", "25")
        assert written == FileStore(path).read()
        assert only_the_document_and_its_lock(path)

    def test_comments_order_and_line_endings_stay(self, path: Path) -> None:
        default = (ROOT / "experiments.yaml").read_text().replace("\n", "\r\n")
        path.write_bytes(default.encode())
        store = FileStore(path)
        store.write_weights("chat-model", {"model-a": 5000, "model-b": 5000}, based_on=store.read().generation)
        expected = default.replace("weight: 95", "weight: 50").replace("weight: 5,", "weight: 50,")
        assert path.read_bytes() == expected.encode()

    def test_a_write_based_on_an_older_document_is_refused(self, store: FileStore, path: Path) -> None:
        old = store.read().generation
        path.write_text(SMALL + "# edited\n")
        with pytest.raises(Conflict, match=f"based on generation {format_generation(old)}"):
            store.write_weights("chat", {"model-a": 5000, "model-b": 5000}, based_on=old)
        assert path.read_text() == SMALL + "# edited\n"

    def test_an_edit_during_the_write_wins(self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # The last moment at which an editor can be noticed: the new content is on disk, the file not yet replaced.
        real = files.prepared

        def edited_meanwhile(target: Path, content: bytes) -> object:
            path.write_text(SMALL + "# edited\n")
            return real(target, content)

        monkeypatch.setattr(files, "prepared", edited_meanwhile)
        with pytest.raises(Conflict):
            store.write_weights("chat", {"model-a": 5000, "model-b": 5000}, based_on=store.read().generation)
        assert path.read_text() == SMALL + "# edited\n"
        assert only_the_document_and_its_lock(path)

    def test_a_broken_edit_is_never_overwritten(self, store: FileStore, path: Path) -> None:
        old = store.read().generation
        path.write_text(SMALL.replace("weight: 10", "weight: 1O"))
        with pytest.raises(DocumentError, match="found 1O"):
            store.write_weights("chat", {"model-a": 5000, "model-b": 5000}, based_on=old)
        with pytest.raises(DocumentError, match="found 1O"):
            store.update_weights("chat", lambda _: {})
        assert "1O" in path.read_text()

    @pytest.mark.parametrize(
        ("weights", "error"), [({"model-a": 1}, WeightsError), ({"model-z": 1}, UnknownName), ({}, None)]
    )
    def test_what_is_refused_or_changes_nothing_leaves_the_file_untouched(
        self, store: FileStore, path: Path, weights: Mapping[str, int], error: type[Exception] | None
    ) -> None:
        before, snapshot = signature(path), store.read()
        if error is None:
            assert store.write_weights("chat", weights, based_on=snapshot.generation) == snapshot
        else:
            with pytest.raises(error):
                store.write_weights("chat", weights, based_on=snapshot.generation)
        assert signature(path) == before
        assert only_the_document_and_its_lock(path)

    def test_mode_and_owner_stay(self, store: FileStore, path: Path) -> None:
        path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(path, 1234, 2345)
        before = path.stat()
        store.write_weights("chat", {"model-a": 5000, "model-b": 5000}, based_on=store.read().generation)
        after = path.stat()
        assert after.st_ino != before.st_ino
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)

    def test_a_link_stays_a_link(self, store: FileStore, path: Path, tmp_path: Path) -> None:
        folder = tmp_path / "links"
        folder.mkdir()
        link = folder / "doc.yaml"
        link.symlink_to(path)
        linked = FileStore(link)
        linked.write_weights("chat", {"model-a": 5000, "model-b": 5000}, based_on=linked.read().generation)
        assert link.is_symlink()
        assert store.read().document.experiment("chat").weights["model-b"] == 5000
        assert list(folder.iterdir()) == [link]

    def test_a_missing_file_gets_no_lock(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no such file"):
            FileStore(tmp_path / "nowhere.yaml").write_weights("chat", {}, based_on=0)
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_written_to_says_so(
        self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The tests may run as root, whom no mode keeps out: the kernel's answer is given for it.
        real = os.open

        def read_only(name: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_CREAT:
                raise OSError(30, "Read-only file system", str(name))
            return real(name, flags, mode)

        monkeypatch.setattr(os, "open", read_only)
        with pytest.raises(StoreError, match="read-only, as a mounted ConfigMap is"):
            store.update_weights("chat", lambda _: {"model-a": 5000, "model-b": 5000})
        assert path.read_text() == SMALL

    def test_a_mounted_file_says_to_mount_the_folder(
        self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(_: Path, target: Path) -> None:
            raise OSError(16, "Device or resource busy", str(target))

        monkeypatch.setattr(exchange, "swap_names", busy)
        with pytest.raises(StoreError, match="mount its folder instead"):
            store.update_weights("chat", lambda _: {"model-a": 5000, "model-b": 5000})
        assert path.read_text() == SMALL
        assert only_the_document_and_its_lock(path)

    def test_a_full_disk_changes_nothing(self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="no space left"):
            store.update_weights("chat", lambda _: {"model-a": 5000, "model-b": 5000})
        assert path.read_text() == SMALL
        assert only_the_document_and_its_lock(path)

    def test_copies_of_killed_writers_are_removed(self, store: FileStore, path: Path) -> None:
        path.with_name(f".{path.name}.0123456789abcdef.tmp").write_text("half")
        path.with_name(f".{path.name}.{'0' * 16}-{'1' * 16}.01234567.swap").write_text(
            "a save that may still be going on"
        )
        path.with_name(f".{path.name}.draft.tmp").write_text("not ours")
        path.with_name("another.tmp").write_text("not ours")
        store.update_weights("chat", lambda _: {"model-a": 5000, "model-b": 5000})
        assert sorted(item.name for item in path.parent.iterdir()) == [
            f".{path.name}.{'0' * 16}-{'1' * 16}.01234567.swap",
            f".{path.name}.draft.tmp",
            f".{path.name}.lock",
            "another.tmp",
            path.name,
        ]


class TestKilledWriters:
    """What a writer leaves that is killed between the swap and the look at what came out."""

    WEIGHTS: Final = {"model-a": 5000, "model-b": 5000}
    PERSONS: Final = SMALL + "# a person's save\n"

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(saves, "LEFT_SECONDS", 0.0)

    def _killed(self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A person saves right before the swap; the writer gets no further than the swap."""
        real = exchange.swap_names

        class Killed(BaseException):
            pass

        def swap(first: Path, second: Path) -> None:
            path.with_name("draft").write_text(self.PERSONS)
            path.with_name("draft").replace(path)
            real(first, second)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(exchange, "swap_names", swap)
            with pytest.raises(Killed):
                store.update_weights("chat", lambda _: self.WEIGHTS)
        assert self.PERSONS not in path.read_text()

    def test_the_save_of_a_person_goes_back_into_place(
        self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._killed(store, path, monkeypatch)
        told: list[str] = []
        FileStore(path, warn=told.append).recover()
        assert path.read_text() == self.PERSONS
        assert only_the_document_and_its_lock(path)
        assert "in place again" in told[0]

    def test_a_save_that_another_one_has_replaced_is_kept_beside_it(
        self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._killed(store, path, monkeypatch)
        path.write_text(SMALL + "# later\n")
        told: list[str] = []
        FileStore(path, warn=told.append).recover()
        (kept,) = path.parent.glob("experiments.yaml.kept-*")
        assert (path.read_text(), kept.read_text()) == (SMALL + "# later\n", self.PERSONS)
        assert str(kept) in told[0]

    def test_where_nobody_saved_nothing_is_told(
        self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exchange, "_settled", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.update_weights("chat", lambda _: self.WEIGHTS)
        assert not only_the_document_and_its_lock(path)
        told: list[str] = []
        FileStore(path, warn=told.append).recover()
        assert told == []
        assert only_the_document_and_its_lock(path)


class TestWithoutSwaps:
    """File systems that cannot swap names."""

    @pytest.fixture(autouse=True)
    def unsupported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "_renameat2", lambda: None)

    def test_a_write_replaces_the_file(self, store: FileStore, path: Path) -> None:
        add(store, 10)
        assert store.read().document.experiment("chat").weights["model-b"] == 1010
        assert only_the_document_and_its_lock(path)

    def test_an_edit_before_the_last_look_wins(
        self, store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, before = exchange.swap_names, store.read().generation

        def edited(first: Path, second: Path) -> None:
            path.write_text(SMALL + "# edited\n")
            real(first, second)

        monkeypatch.setattr(exchange, "swap_names", edited)
        with pytest.raises(Conflict):
            store.write_weights("chat", {"model-a": 5000, "model-b": 5000}, based_on=before)
        assert path.read_text() == SMALL + "# edited\n"
        assert only_the_document_and_its_lock(path)


class TestLock:
    @pytest.mark.parametrize(("mode", "lock"), [(0o644, 0o600), (0o664, 0o660), (0o666, 0o666), (0o444, 0o600)])
    def test_who_may_write_the_document_may_lock_it_and_nobody_else(
        self, store: FileStore, path: Path, mode: int, lock: int
    ) -> None:
        path.chmod(mode)
        path.with_name(f".{path.name}.lock").touch(0o644)  # as an earlier version made it
        add(store, 10)
        assert stat.S_IMODE(path.with_name(f".{path.name}.lock").stat().st_mode) == lock

    def test_a_link_in_place_of_the_lock_is_refused(self, store: FileStore, path: Path, tmp_path: Path) -> None:
        path.with_name(f".{path.name}.lock").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="symbolic link in place of the lock"):
            add(store, 10)
        assert not (tmp_path / "elsewhere").exists()

    def test_an_urgent_write_goes_on_without_the_lock_and_names_its_holder(self, path: Path) -> None:
        told: list[str] = []
        store = FileStore(path, lock_seconds=0.05, warn=told.append)
        weights = {"model-a": 10_000, "model-b": 0}
        with files.locked(path, 1):
            store.write_weights("chat", weights, based_on=store.read().generation, urgent=True)
        assert store.read().document.experiment("chat").weights == weights
        assert f"writing without the lock: {path}: process {os.getpid()} " in told[0]

    def test_an_urgent_write_waits_for_who_writes_into_the_file_and_then_keeps_their_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saves, "URGENT_SECONDS", 0.2)
        told: list[str] = []
        store = FileStore(path, warn=told.append)
        weights = {"model-a": 10_000, "model-b": 0}
        with path.open("r+") as theirs:
            with pytest.raises(Conflict):
                store.write_weights("chat", weights, based_on=store.read().generation)
            store.write_weights("chat", weights, based_on=store.read().generation, urgent=True)
            theirs.write("# theirs\n")
        assert store.read().document.experiment("chat").weights == weights
        (kept,) = path.parent.glob("experiments.yaml.kept-*")
        assert kept.read_text().startswith("# theirs\n")
        assert str(kept) in told[0]

    def test_an_urgent_write_still_compares(self, path: Path) -> None:
        store = FileStore(path, lock_seconds=0.05)
        old = store.read().generation
        path.write_text(SMALL + "# edited\n")
        with files.locked(path, 1), pytest.raises(Conflict):
            store.write_weights("chat", {"model-a": 10_000, "model-b": 0}, based_on=old, urgent=True)


class TestUpdateWeights:
    def test_makes_new_weights_of_the_present_ones(self, store: FileStore) -> None:
        assert add(store, 10).document.experiment("chat").weights == {"model-a": 8990, "model-b": 1010}

    def test_runs_again_when_an_editor_was_faster(self, store: FileStore, path: Path) -> None:
        calls: list[int] = []

        def change(snapshot: Snapshot) -> Mapping[str, int]:
            if not calls:
                path.write_text(SMALL + "# edited\n")
            calls.append(snapshot.generation)
            return {"model-a": 5000, "model-b": 5000}

        store.update_weights("chat", change)
        assert len(set(calls)) == len(calls) == 2
        assert path.read_text().endswith("# edited\n")

    def test_gives_up_on_an_editor_that_is_always_faster(self, store: FileStore, path: Path) -> None:
        calls: list[int] = []

        def change(_: Snapshot) -> Mapping[str, int]:
            calls.append(1)
            path.write_text(f"{SMALL}# edit {len(calls)}\n")
            return {"model-a": 5000, "model-b": 5000}

        with pytest.raises(Conflict):
            store.update_weights("chat", change)
        assert len(calls) == 10

    def test_a_writer_that_holds_the_lock_too_long_is_named(self, path: Path) -> None:
        message = rf"process {os.getpid()} .* has held the lock .* for 0.05 s; end it, .*\.experiments\.yaml\.lock"
        with files.locked(path, 1), pytest.raises(StoreError, match=message):
            FileStore(path, lock_seconds=0.05).update_weights("chat", lambda _: {})

    @pytest.mark.process
    def test_a_killed_writer_blocks_no_other(self, store: FileStore, path: Path, tmp_path: Path) -> None:
        ready = tmp_path / "ready"
        program = (
            "import sys, time, pathlib\n"
            "from abmesh.experiment import files\n"
            "with files.locked(pathlib.Path(sys.argv[1]), 10):\n"
            "    pathlib.Path(sys.argv[2]).touch()\n"
            "    time.sleep(60)\n"
        )
        holder = subprocess.Popen([sys.executable, "-c", program, str(path), str(ready)], cwd=ROOT)
        try:
            wait_for(ready.exists)
            result: list[Snapshot] = []
            writer = threading.Thread(target=lambda: result.append(add(store, 10)))
            writer.start()
            writer.join(0.2)
            assert writer.is_alive()
            holder.send_signal(signal.SIGKILL)
            writer.join(10)
            assert result[0].document.experiment("chat").weights["model-b"] == 1010
        finally:
            holder.kill()
            holder.wait()


def add(store: FileStore, points: int) -> Snapshot:
    """Move points from model-a to model-b."""

    def change(snapshot: Snapshot) -> Mapping[str, int]:
        present = snapshot.document.experiment("chat").weights
        return {"model-a": present["model-a"] - points, "model-b": present["model-b"] + points}

    return store.update_weights("chat", change)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


WRITER = """
import pathlib, sys
from abmesh.experiment.store import FileStore
from tests.abmesh.experiment.test_store import add
store = FileStore(pathlib.Path(sys.argv[1]))
for _ in range(25):
    add(store, 10)
"""


@pytest.fixture
def writers(path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT) for _ in range(8)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.process
def test_200_updates_of_8_processes_lose_nothing_and_show_nothing_torn(
    writers: list[subprocess.Popen[bytes]], store: FileStore, path: Path
) -> None:
    seen: list[int] = []
    reader = FileStore(path)
    while any(process.poll() is None for process in writers):
        seen.append(reader.read().document.experiment("chat").weights["model-b"])  # raises if torn or invalid
    assert [process.returncode for process in writers] == [0] * 8
    assert store.read().document.experiment("chat").weights == {"model-a": 7000, "model-b": 3000}
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    assert path.read_text() == SMALL.replace("90", "70").replace("10", "30")
    assert only_the_document_and_its_lock(path)


def test_40_compare_and_swap_writes_of_8_threads_lose_nothing(path: Path) -> None:
    conflicts: list[int] = []

    def write(_: int) -> None:
        store = FileStore(path)
        while True:
            snapshot = store.read()
            present = snapshot.document.experiment("chat").weights
            weights = {"model-a": present["model-a"] - 10, "model-b": present["model-b"] + 10}
            try:
                store.write_weights("chat", weights, based_on=snapshot.generation)
            except Conflict:
                conflicts.append(1)
                continue
            return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert FileStore(path).read().document.experiment("chat").weights == {"model-a": 8600, "model-b": 1400}
    assert conflicts  # or nothing was tried


def test_no_descriptor_is_left_open(store: FileStore, path: Path) -> None:
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(5):
        add(store, 10)
        path.write_text(SMALL)
    assert process.num_fds() == before
    assert stat.S_ISREG(path.stat().st_mode)
