"""Watching the document through everything that editors, Kubernetes and clumsy scripts do to a file."""

# ruff: noqa: ASYNC240 - a test's files are small and local, and its loop serves nobody else

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.errors import DocumentError, StoreError
from abmesh.experiment.store import FileStore, Rejected, Snapshot, generation_of
from abmesh.experiment.watch import Tracker
from tests.abmesh.experiment.documents import SMALL, THREE

INTERVAL = 0.03
BROKEN = "version: 1\nexperiments: [\n"
OTHER = SMALL.replace("weight: 90", "weight: 80").replace("weight: 10", "weight: 20")
assert len(OTHER) == len(SMALL)

Item = Snapshot | Rejected
Next = Callable[[], Awaitable[Item]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "experiments.yaml"
    file.write_text(SMALL)
    return file


class Watch:
    """One watch, whose items wait in a queue."""

    def __init__(self, path: Path, interval: float = INTERVAL) -> None:
        self.items: asyncio.Queue[Item] = asyncio.Queue()
        self._interval = interval
        self._task = asyncio.create_task(self._run(FileStore(path)))

    async def _run(self, store: FileStore) -> None:
        async for item in store.watch(self._interval):
            self.items.put_nowait(item)

    async def next(self) -> Item:
        return await asyncio.wait_for(self.items.get(), 20)

    async def good(self, text: str) -> None:
        item = await self.next()
        assert isinstance(item, Snapshot), item
        assert item.text == text
        assert item.generation == generation_of(text.encode())

    async def bad(self, error: type[Exception]) -> Rejected:
        item = await self.next()
        assert isinstance(item, Rejected), item
        assert isinstance(item.error, error)
        return item

    async def nothing(self, looks: int = 8) -> None:
        await asyncio.sleep(looks * INTERVAL)
        assert self.items.empty(), self.items.get_nowait()

    async def stop(self) -> None:
        assert not self._task.done(), self._task.exception()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def watch(path: Path) -> AsyncIterator[Watch]:
    watching = Watch(path)
    await watching.good(SMALL)
    yield watching
    await watching.stop()


def replace(path: Path, text: str) -> None:
    """As most editors save: a new file in the old one's place."""
    copy = path.with_name("copy")
    copy.write_text(text)
    copy.replace(path)


async def test_an_edit_in_place_is_seen(watch: Watch, path: Path) -> None:
    path.write_text(OTHER)
    await watch.good(OTHER)
    await watch.nothing()


async def test_a_replaced_file_is_seen_again_and_again(watch: Watch, path: Path) -> None:
    for text in (OTHER, SMALL, THREE):
        replace(path, text)
        await watch.good(text)
    await watch.nothing()


async def test_our_own_writes_are_seen(watch: Watch, path: Path) -> None:
    FileStore(path).update_weights("chat", lambda _: {"model-a": 8000, "model-b": 2000})
    await watch.good(OTHER)


async def test_a_broken_edit_is_reported_once_and_its_mending_is_seen(watch: Watch, path: Path) -> None:
    replace(path, BROKEN)
    rejected = await watch.bad(DocumentError)
    assert rejected.generation == generation_of(BROKEN.encode())
    await watch.nothing()
    replace(path, BROKEN)  # the same content in another file is no news
    await watch.nothing()
    replace(path, SMALL)  # what was served all the while: the rejection is over
    await watch.good(SMALL)
    await watch.nothing()


async def test_one_broken_edit_after_another_is_reported(watch: Watch, path: Path) -> None:
    replace(path, BROKEN)
    first = await watch.bad(DocumentError)
    replace(path, "version: 2\n")
    second = await watch.bad(DocumentError)
    assert first.generation != second.generation


async def test_a_deleted_file_is_reported_once_and_seen_when_it_is_back(watch: Watch, path: Path) -> None:
    path.unlink()
    assert (await watch.bad(StoreError)).generation is None
    await watch.nothing()
    path.write_text(SMALL)
    await watch.good(SMALL)


async def test_a_file_deleted_and_created_again_at_once_is_seen(watch: Watch, path: Path) -> None:
    path.unlink()
    path.write_text(OTHER)
    await watch.good(OTHER)


async def test_content_that_is_not_text_is_reported(watch: Watch, path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    assert (await watch.bad(DocumentError)).generation == generation_of(b"\xff\xfe")


async def test_a_file_that_becomes_a_folder_is_reported(watch: Watch, path: Path) -> None:
    path.unlink()
    path.mkdir()
    assert (await watch.bad(StoreError)).generation is None
    path.rmdir()
    path.write_text(OTHER)
    item = await watch.next()
    if isinstance(item, Rejected):  # a look may have fallen between the two
        item = await watch.next()
    assert isinstance(item, Snapshot)


async def test_a_touch_is_not_a_change(watch: Watch, path: Path) -> None:
    for _ in range(3):
        path.touch()
        path.chmod(0o600)
        await watch.nothing(4)


async def test_a_swap_of_kubernetes_links_is_seen(tmp_path: Path) -> None:
    for name, text in (("..1", SMALL), ("..2", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiments.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    link = tmp_path / "experiments.yaml"
    link.symlink_to("..data/experiments.yaml")
    watching = Watch(link)
    await watching.good(SMALL)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    (tmp_path / "..1" / "experiments.yaml").unlink()
    await watching.good(OTHER)
    await watching.nothing()
    await watching.stop()


async def test_half_written_content_is_neither_served_nor_reported(watch: Watch, path: Path) -> None:
    # Written in place, as `cp` and shell redirection do. The first line alone would be an error, the first part of
    # the second round a good document with other weights.
    for text in (OTHER, SMALL):
        with path.open("w", buffering=1) as file:
            for line in text.splitlines(keepends=True):
                file.write(line)
                await asyncio.sleep(INTERVAL / 4)
        await watch.good(text)
    await watch.nothing()


async def test_a_valid_beginning_is_not_served(watch: Watch, path: Path) -> None:
    whole = OTHER + "\n".join(f"# {number}" for number in range(20))
    with path.open("w") as file:
        file.write(OTHER)
        file.flush()
        for number in range(20):
            await asyncio.sleep(INTERVAL / 4)
            file.write(f"# {number}" + ("\n" if number < 19 else ""))
            file.flush()
    await watch.good(whole)


async def test_a_change_that_keeps_size_and_modification_time_is_seen(watch: Watch, path: Path) -> None:
    before = path.stat()
    path.write_text(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    await watch.good(OTHER)


async def test_watching_starts_with_a_missing_or_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "experiments.yaml"
    watching = Watch(path)
    await watching.bad(StoreError)
    path.write_text(BROKEN)
    await watching.bad(DocumentError)
    path.write_text(SMALL)
    await watching.good(SMALL)
    await watching.stop()
    path.write_text(BROKEN)
    watching = Watch(path)
    await watching.bad(DocumentError)
    await watching.stop()


async def test_an_edit_shows_in_well_under_a_second(path: Path) -> None:
    watching = Watch(path, interval=0.1)
    await watching.good(SMALL)
    spent = []
    for text in (OTHER, SMALL, OTHER):
        start = time.monotonic()
        replace(path, text)
        await watching.good(text)
        spent.append(time.monotonic() - start)
    await watching.stop()
    assert min(spent) < 0.35
    assert max(spent) < 5  # a busy machine may take its time


class TestTracker:
    """The decisions, without a file or a clock."""

    @staticmethod
    def run(looks: Sequence[tuple[Hashable, Hashable, bool]], seconds: float = 0.1) -> list[Hashable]:
        """What is told of looks at (signature, content, good)."""
        tracker, told = Tracker(reread_after=2.0), []
        for index, (seen, content, good) in enumerate(looks):
            now = index * seconds
            if tracker.is_due(seen, now) and tracker.is_news(seen, content, good=good, now=now):
                told.append(content)
        return told

    def test_the_first_look_is_reported_whatever_it_finds(self) -> None:
        assert self.run([(1, "a", True)]) == ["a"]
        assert self.run([(None, "missing", False)]) == ["missing"]

    def test_a_change_is_reported_at_the_second_look(self) -> None:
        assert self.run([(1, "a", True), (2, "b", True)]) == ["a"]
        assert self.run([(1, "a", True), (2, "b", True), (2, "b", True)]) == ["a", "b"]

    def test_bad_content_is_reported_at_the_third_look(self) -> None:
        bad = (2, "b", False)
        assert self.run([(1, "a", True), bad, bad]) == ["a"]
        assert self.run([(1, "a", True), bad, bad, bad, bad]) == ["a", "b"]

    def test_a_hidden_change_is_found_within_two_seconds(self) -> None:
        assert self.run([(1, "a", True)] + [(1, "b", True)] * 19) == ["a"]
        assert self.run([(1, "a", True)] + [(1, "b", True)] * 21) == ["a", "b"]

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=20))
    def test_the_last_state_is_always_reported_in_the_end(self, changes: list[tuple[int, int]]) -> None:
        """Content decides all: 0 is missing, 1 is bad, 2 and 3 are good."""
        looks: list[tuple[Hashable, Hashable, bool]] = []
        for place, (content, times) in enumerate(changes):
            looks += [((place, content), content, content > 1)] * times
        looks += [looks[-1]] * 4
        told = self.run(looks)
        assert told[-1] == looks[-1][1]
        assert all(first != second for first, second in itertools.pairwise(told))
