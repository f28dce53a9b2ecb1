"""The experiments document as a file that people, GitOps and abmesh itself all write.

    read            what is there now
    write_weights   compare-and-swap: refused if the document is no longer the one that the change was based on
    update_weights  read, change and write as one step
    watch           every content once, good or bad, soon after it appears

Called by the server (:mod:`ext_proc.snapshot`), the controller's sinks and the command line. Writers that use this
module exclude each other by a lock beside the file; readers never wait and never see half a write. Editors know no
locks, so a write also looks whether the file is still the one it read, just before replacing it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from abmesh import atomic
from abmesh.experiment import codec, files
from abmesh.experiment.errors import AbmeshError, Conflict, DocumentError, Problem, StoreError
from abmesh.experiment.model import Document
from abmesh.experiment.watch import Tracker
from abmesh.experiment.yaml_nodes import LONGEST

ATTEMPTS: Final = 10
"""How often :meth:`FileStore.update_weights` tries."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A good document.

    Attributes:
        document: what the text means.
        text: the file's content.
        generation: names the content; see :func:`generation_of`.
        warnings: what is still accepted but should be changed, such as a field's old name.
    """

    document: Document
    text: str
    generation: int
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A content that is not served.

    Attributes:
        error: why; a DocumentError or a StoreError.
        generation: of the content, or None if there is none (the file is missing or unreadable).
    """

    error: AbmeshError
    generation: int | None


def generation_of(content: bytes) -> int:
    """The first 52 bits of the content's xxHash64: exact as a floating-point number, which Prometheus samples are."""
    return xxhash.xxh64_intdigest(content) >> 12


def format_generation(generation: int) -> str:
    """A generation as people see it: 13 hexadecimal digits."""
    return f"{generation:013x}"


class FileStore:
    """The experiments document in a file.

    Args:
        path: the file, which may be a symbolic link; writes leave the link as it is.
        lock_seconds: how long a write waits for other writers.
        warn: told once of everything in the document that is still accepted but should be changed.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock_seconds: float = files.LOCK_SECONDS,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._path = path
        self._lock_seconds = lock_seconds
        self._warn = warn
        self._warned: set[tuple[str, str]] = set()
        self._last: tuple[bytes, Snapshot | DocumentError] | None = None

    @property
    def path(self) -> Path:
        """The file, as it was named."""
        return self._path

    def read(self) -> Snapshot:
        """The document as it is now.

        Raises:
            DocumentError: the content is refused.
            StoreError: the file is missing or unreadable.
        """
        return self._decoded(files.read(self._path, LONGEST))

    def write_weights(self, experiment: str, weights: Mapping[str, int], *, based_on: int) -> Snapshot:
        """Give an experiment new weights; see :func:`abmesh.experiment.codec.edit_weights`.

        Weights that the document already has leave the file untouched.

        Args:
            experiment: its name.
            weights: basis points by variant.
            based_on: generation of the document that the weights were chosen for.

        Returns:
            The document as written.

        Raises:
            Conflict: the document has another generation by now.
            DocumentError: the file holds no valid document; it is left as its author wrote it.
            StoreError: the file cannot be written, or another writer holds the lock for too long.
            UnknownName, WeightsError: as from :func:`abmesh.experiment.codec.edit_weights`.
        """
        with self._exclusive() as target:
            snapshot = self.read()
            if snapshot.generation != based_on:
                raise self._conflict(based_on, snapshot.generation)
            return self._write(target, snapshot, experiment, weights)

    def update_weights(self, experiment: str, change: Callable[[Snapshot], Mapping[str, int]]) -> Snapshot:
        """Give an experiment the weights that a function makes of the present document.

        Other writers wait while the function runs, so that no update is lost and none starves. It must be quick and
        must not write itself; it runs again if an editor changed the file meanwhile.

        Raises:
            Conflict: the file was edited during every one of ten attempts.
            DocumentError, StoreError, UnknownName, WeightsError: as from :meth:`write_weights`.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._exclusive() as target:
                    snapshot = self.read()
                    return self._write(target, snapshot, experiment, change(snapshot))
            except Conflict:
                if attempt == ATTEMPTS:
                    raise
            time.sleep(random.uniform(0.005, 0.02) * attempt)
        raise AssertionError("unreachable")

    async def watch(self, interval: float = 0.1) -> AsyncIterator[Snapshot | Rejected]:
        """The document's content now, and again whenever it changes; never ends and never raises for the file's sake.

        A change shows within two intervals, one that cannot be served within three. Every bad content is reported
        once; a good one follows it even if it is the one from before. A file that is written in place more slowly than
        that may be reported half-written, and is served once it is whole.

        Args:
            interval: seconds between two looks at the file.
        """
        tracker = Tracker()
        while True:
            seen = atomic.signature(self._path)
            now = time.monotonic()
            if tracker.is_due(seen, now):
                # Parsing takes milliseconds, for large documents seconds: not in the loop that serves requests.
                found, content = await asyncio.to_thread(self._look)
                unchanged = atomic.signature(self._path) == seen
                if unchanged and tracker.is_news(seen, content, good=isinstance(found, Snapshot), now=now):
                    yield found
            await asyncio.sleep(interval)

    def _look(self) -> tuple[Snapshot | Rejected, tuple[int | None, str]]:
        """What the file holds, and what names it."""
        generation: int | None = None
        try:
            content = files.read(self._path, LONGEST)
            generation = generation_of(content) if len(content) <= LONGEST else None
            snapshot = self._decoded(content)
        except (DocumentError, StoreError) as error:
            return Rejected(error, generation), (generation, "" if generation is not None else str(error))
        return snapshot, (snapshot.generation, "")

    def _decoded(self, content: bytes) -> Snapshot:
        """The snapshot of a content; the last one is remembered, since most reads find what the one before found."""
        if self._last is not None and self._last[0] == content:
            known = self._last[1]
        else:
            try:
                known = self._decode(content)
            except DocumentError as error:
                known = error
            self._last = (content, known)
        if isinstance(known, DocumentError):
            raise DocumentError(known.source, known.problems)
        return known

    def _decode(self, content: bytes) -> Snapshot:
        source = str(self._path)
        if len(content) > LONGEST:
            raise DocumentError(source, (Problem("", 0, "the file is too large", allowed=f"at most {LONGEST} bytes"),))
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
            problem = Problem("", line, "not UTF-8", f"byte 0x{content[error.start]:02x}", "text in UTF-8")
            raise DocumentError(source, (problem,)) from error
        document, warnings, _ = codec.parse_with_warnings(text, source)
        for warning in warnings:
            # Once, although every step of a rollout changes the content.
            if self._warn is not None and (warning.path, warning.message) not in self._warned:
                self._warned.add((warning.path, warning.message))
                self._warn(warning.describe(source))
        return Snapshot(document, text, generation_of(content), warnings)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[Path]:
        """The real file, with every other writer kept out. Where no file can be read, no lock is left behind."""
        files.read(self._path, LONGEST)
        target = Path(os.path.realpath(self._path))  # Path.resolve raises RuntimeError for a loop of links
        with files.locked(target, self._lock_seconds):
            yield target

    def _write(self, target: Path, snapshot: Snapshot, experiment: str, weights: Mapping[str, int]) -> Snapshot:
        """To be called under the lock."""
        text, document = codec.edit_weights(snapshot.text, experiment, weights, str(self._path))
        if text == snapshot.text:
            return snapshot
        content = text.encode()
        with files.prepared(target, content) as copy:
            present = generation_of(files.read(self._path, LONGEST))
            if present != snapshot.generation:
                raise self._conflict(snapshot.generation, present)
            files.replace(copy, target)
        return Snapshot(document, text, generation_of(content), snapshot.warnings)

    def _conflict(self, based_on: int, present: int) -> Conflict:
        return Conflict(
            f"{self._path} was changed meanwhile: the change is based on generation {format_generation(based_on)}, "
            f"the file has {format_generation(present)}; read it again and retry"
        )
