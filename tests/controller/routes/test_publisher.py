"""The routes file follows the document, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from abmesh.experiment.errors import SettingsError, StoreError
from abmesh.experiment.store import FileStore, Rejected, Snapshot, format_generation
from controller.metrics.telemetry import Telemetry
from controller.routes.envoy_file import EnvoyRoutes, document_store, routes_text
from controller.routes.publisher import Publisher

TEXT = """\
version: 1
experiments:
  - name: chat
    lane: native
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: a, weight: 90, control: true}
      - {name: model-b, cluster: b, weight: 10}
"""


class Folder:
    """A document, its routes file, and a publisher that retries quickly."""

    def __init__(self, path: Path) -> None:
        self.document = path / "experiments.yaml"
        self.document.write_text(TEXT)
        self.store = FileStore(self.document)
        (path / "routes").mkdir()
        self.file = path / "routes" / "routes.json"
        self.publisher = Publisher(
            lambda: FileStore(self.document).watch(0.01),
            EnvoyRoutes(self.file),
            retry_seconds=0.02,
            check_seconds=0.05,
        )

    def holds_the_document(self) -> bool:
        return self.file.exists() and self.file.read_text() == routes_text(self.store.read())


@asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run())
    try:
        yield
        assert not task.done(), "it never ends on its own"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_the_file_follows_every_good_document_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(tmp_path)
    status = folder.publisher.status
    async with running(folder.publisher):
        await until(folder.holds_the_document)
        assert json.loads(folder.file.read_text())["version_info"] == format_generation(folder.store.read().generation)
        folder.store.update_weights("chat", lambda _: {"model-a": 5000, "model-b": 5000})
        await until(folder.holds_the_document)
        good = folder.file.read_text()
        folder.document.write_text(TEXT.replace("weight: 10", "weight: 11"))
        await until(lambda: "the document was refused" in caplog.text)
        assert folder.file.read_text() == good
        folder.document.write_text(TEXT.replace("weight: 10", "weight: 0").replace("weight: 90", "weight: 100"))
        await until(folder.holds_the_document)
        await until(lambda: status.generation == folder.store.read().generation)
    assert (status.writes, status.failures, status.error) == (3, 0, "")


async def test_a_missing_folder_is_logged_once_and_retried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(tmp_path)
    folder.file.parent.rmdir()
    status = folder.publisher.status
    async with running(folder.publisher):
        await until(lambda: status.failures >= 3)
        assert "cannot write the routes file: no such file" in status.error
        assert status.generation is None
        folder.file.parent.mkdir()
        await until(folder.holds_the_document)
        await until(lambda: not status.error)
    assert (
        len([record for record in caplog.records if "cannot bring the routes file up to date" in record.message]) == 1
    ), "once, not each time"


async def test_a_file_that_somebody_else_changed_or_removed_is_written_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    async with running(folder.publisher):
        await until(folder.holds_the_document)
        folder.file.write_text("{")
        await until(folder.holds_the_document)
        folder.file.unlink()
        await until(folder.holds_the_document)


async def test_a_bug_in_rendering_or_watching_is_survived(tmp_path: Path) -> None:
    snapshot = Folder(tmp_path).store.read()
    published: list[int] = []
    looks = 0

    class File:
        def publish(self, found: Snapshot) -> tuple[bool, object]:
            published.append(found.generation)
            if len(published) < 3:
                raise KeyError("a bug") if len(published) == 1 else StoreError("full")
            return True, "same"

        def signature(self) -> object:
            return "same"

    async def watch() -> AsyncIterator[Snapshot | Rejected]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("another")
        yield snapshot
        await asyncio.Event().wait()

    publisher = Publisher(watch, File(), retry_seconds=0.01, check_seconds=0.01)
    async with running(publisher):
        await until(lambda: publisher.status.writes)
    assert publisher.status.failures == 3
    assert (publisher.status.error, publisher.status.generation) == ("", snapshot.generation)


async def test_the_status_shows_an_error_while_the_document_cannot_be_watched(tmp_path: Path) -> None:
    snapshot = Folder(tmp_path).store.read()
    looks = signatures = 0
    readable = asyncio.Event()

    class File:
        def publish(self, _: Snapshot) -> tuple[bool, object]:
            return True, "same"

        def signature(self) -> object:
            nonlocal signatures
            signatures += 1
            return "same"

    async def watch() -> AsyncIterator[Snapshot | Rejected]:
        nonlocal looks
        looks += 1
        if looks > 1 and not readable.is_set():
            raise StoreError("gone")
        yield snapshot
        if looks > 1:
            await asyncio.Event().wait()

    publisher = Publisher(watch, File(), retry_seconds=0.02, check_seconds=0.001)
    async with running(publisher):
        await until(lambda: publisher.status.error)
        start = signatures
        seen: set[str] = set()

        def looked_often_enough() -> bool:
            seen.add(publisher.status.error)
            return signatures > start + 10

        await until(looked_often_enough)
        assert seen == {"gone"}, "an intact file does not clear the error"
        readable.set()
        await until(lambda: not publisher.status.error)


async def test_routes_that_the_envoys_bootstrap_could_not_serve_are_never_written(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    EnvoyRoutes(folder.file).begin(folder.store.read())
    status = folder.publisher.status
    async with running(folder.publisher):
        await until(lambda: status.generation)
        good = folder.file.read_text()
        folder.document.write_text(TEXT.replace("cluster: b", "cluster: b2"))
        await until(lambda: status.error)
        assert "found routes to b2; allowed: the clusters in this Envoy's bootstrap, a, b;" in status.error
        assert "restart Envoy" in status.error
        assert folder.file.read_text() == good
        # `abmesh render envoy` does this, before Envoy is restarted with the new bootstrap.
        EnvoyRoutes(folder.file).begin(folder.store.read())
        await until(lambda: not status.error)
        assert folder.holds_the_document()


@pytest.mark.parametrize("found", ["[", '{"a": 1}', "[1]", "\udc80"])
def test_a_damaged_record_of_clusters_is_an_error(tmp_path: Path, found: str) -> None:
    folder = Folder(tmp_path)
    routes = EnvoyRoutes(folder.file)
    routes.record.write_bytes(found.encode(errors="surrogateescape"))
    with pytest.raises(StoreError, match="cannot read the record of Envoy's clusters"):
        routes.publish(folder.store.read())
    assert not folder.file.exists()


async def test_metrics_show_what_the_file_holds(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    telemetry = Telemetry()
    telemetry.add_routes(folder.publisher.status)
    assert b"\nabmesh_routes_generation " not in telemetry.render()
    async with running(folder.publisher):
        await until(lambda: folder.publisher.status.generation)
    text = telemetry.render().decode()
    (sample,) = (line for line in text.splitlines() if line.startswith("abmesh_routes_generation "))
    assert float(sample.split()[1]) == folder.store.read().generation
    assert "abmesh_routes_writes_total 1.0" in text
    assert "abmesh_routes_published 1.0" in text
    folder.publisher.status.write_error = "the disk is full"
    assert "abmesh_routes_published 0.0" in telemetry.render().decode()
    assert b"abmesh_routes" not in Telemetry().render(), "nothing where there is no such file"


def test_a_name_that_envoy_would_not_read_is_refused() -> None:
    with pytest.raises(SettingsError, match="routes_file"):
        EnvoyRoutes(Path("/run/routes.txt"))


async def test_a_changed_salt_is_published_under_the_same_generation_and_for_the_owner_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    salt = tmp_path / "salt"
    salt.write_text("a" * 32)
    folder = Folder(tmp_path)
    folder.document.write_text(TEXT.replace("    lane:", f"    secret_salt: {{file: {salt}}}\n    lane:"))
    publisher = Publisher(lambda: document_store(folder.document).watch(0.01), EnvoyRoutes(folder.file))
    async with running(publisher):
        for expected in ("a" * 32, "b" * 32):
            salt.write_text(expected)
            await until(lambda expected=expected: folder.file.exists() and expected in folder.file.read_text())  # type: ignore[misc]
            assert folder.file.stat().st_mode & 0o777 == 0o600
    assert "everybody" not in caplog.text
    folder.file.chmod(0o644)
    salt.write_text("c" * 32)
    EnvoyRoutes(folder.file).publish(document_store(folder.document).read())
    assert "holds chat: secret_salt" in caplog.text
    assert "c" * 32 not in caplog.text
