"""abmesh writes weights without a pause while a person saves the document; not one of their saves is lost.

The moment that used to lose them, between abmesh's last look at the file and the new content's taking its place, is
made longer by a millisecond or so, as a slow disk makes it.
"""

from __future__ import annotations

import mmap
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.drills.report import Drill
from tests.paths import ROOT

DOCUMENT: Final = """\
# save 0
version: 1
experiments:
  - name: chat
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: a, weight: 90, control: true}
      - {name: model-b, cluster: b, weight: 10}
"""

WRITER: Final = """
import mmap, pathlib, random, sys, time
from abmesh import exchange
from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.store import FileStore
store = FileStore(pathlib.Path(sys.argv[1]), warn=lambda text: print(text, flush=True))
def slowly(move):
    def moved(*names):
        time.sleep(random.uniform(0, 0.002))
        return move(*names)
    return moved
exchange.swap_names, pathlib.Path.replace = slowly(exchange.swap_names), slowly(pathlib.Path.replace)
with open(sys.argv[2], "r+b") as file:
    counted = mmap.mmap(file.fileno(), 16)
tried = written = 0
while True:
    try:
        snapshot = store.read()
        b = snapshot.document.experiment("chat").weights["model-b"] % 5000 + 100
        store.write_weights("chat", {"model-a": 10000 - b, "model-b": b}, based_on=snapshot.generation)
        written += 1
    except AbmeshError:
        pass  # a person saved, or is in the middle of it: the next try reads again
    tried += 1
    counted[:16] = tried.to_bytes(8, "little") + written.to_bytes(8, "little")
"""


def _replace(path: Path, text: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def _empty_and_write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        file.write(text[len(text) // 2 :])


def _write_into(path: Path, text: str) -> None:
    """Opened a while before it is written."""
    with path.open("r+") as file:
        time.sleep(random.uniform(0, 0.004))
        file.write(text)
        file.truncate()


class Writer:
    """A process that writes weights all the time."""

    def __init__(self, counted: mmap.mmap) -> None:
        self._counted = counted

    @property
    def tried(self) -> int:
        return int.from_bytes(self._counted[:8], "little")

    @property
    def written(self) -> int:
        return int.from_bytes(self._counted[8:16], "little")

    def until(self, tries: int) -> None:
        limit = time.monotonic() + 30
        while self.tried < tries:
            assert time.monotonic() < limit, "the writer has ended"
            time.sleep(0.0005)


@contextmanager
def _writer(path: Path, folder: Path) -> Iterator[Writer]:
    counter = folder / "counter"
    counter.write_bytes(bytes(16))
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(counter)], cwd=ROOT)
    try:
        with counter.open("r+b") as file, mmap.mmap(file.fileno(), 16) as counted:
            writer = Writer(counted)
            writer.until(3)
            yield writer
    finally:
        process.kill()
        process.wait()


def _saved(path: Path) -> int:
    """The newest save that the document holds."""
    found = re.search(r"^# save (\d+)$", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else -1


def _lost(path: Path, number: int) -> bool:
    """Whether a save is gone for good; for microseconds, abmesh's content may be in its place."""
    limit = time.monotonic() + 1
    while _saved(path) != number:
        if time.monotonic() > limit:
            return True
        time.sleep(0.001)
    return False


def _race(folder: Path, save: Callable[[Path, str], None], saves: int, drill: Drill) -> None:
    place = folder / "document"
    place.mkdir()
    path = place / "experiments.yaml"
    path.write_text(DOCUMENT)
    lost = []
    with _writer(path, folder) as writer:
        for number in range(1, saves + 1):
            text = DOCUMENT.replace("# save 0", f"# save {number}")
            time.sleep(random.uniform(0, 0.01))
            save(path, text)
            writer.until(writer.tried + 2)  # whatever it was doing is over
            if _lost(path, number):
                lost.append(number)
        written = writer.written
    drill.sent, drill.failed = saves, len(lost)
    drill.operator_reads(f"{saves} saves by a person, {written} writes by abmesh in between, {len(lost)} saves lost")
    assert not lost
    assert written > saves / 4, "abmesh wrote too seldom to prove anything"


SAVES: Final = [
    pytest.param(_replace, id="replaced"),
    pytest.param(_empty_and_write, id="emptied"),
    pytest.param(_write_into, id="written into"),
]


@pytest.mark.parametrize("save", SAVES)
def test_short(tmp_path: Path, drill: Drill, save: Callable[[Path, str], None]) -> None:
    _race(tmp_path, save, 100, drill)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("save", SAVES)
def test_thousands(tmp_path: Path, drill: Drill, save: Callable[[Path, str], None]) -> None:
    _race(tmp_path, save, 3000, drill)
