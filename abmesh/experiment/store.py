"""The experiments document as a file that people, GitOps and abmesh itself all write.

    read            what is there now
    write_weights   compare-and-swap: refused if the document has changed since the change was decided
    update_weights  read, change and write in one step
    watch           every content once, good or bad, soon after it appears

Called by the server (:mod:`ext_proc.snapshot`), the controller and the command line. Writers that use this module
exclude each other with a lock file beside the document; readers never wait and never see half a write. Editors ignore
the lock, so a write swaps the new content in and looks at what came out: if that is not what was read, it goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import xxhash

from abmesh import atomic
from abmesh.experiment import codec, files, saves
from abmesh.experiment.errors import AbmeshError, Conflict, DocumentError, Problem, SecretError, StoreError
from abmesh.experiment.model import Document
from abmesh.experiment.secrets import held
from abmesh.experiment.watch import Tracker
from abmesh.experiment.yaml_nodes import LONGEST

ATTEMPTS: Final = 10
"""Number of times that :meth:`FileStore.update_weights` tries."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A valid document.

    Attributes:
        document: the parsed content.
        text: the file's content.
        generation: identifies the content; see :func:`generation_of`.
        warnings: what is still accepted but should be changed, such as a field's old name.
        refused: in a cluster, why experiments are not in force as people want them, by name.
        digests: in a cluster, numbers of what is accepted of each experiment, by name.
    """

    document: Document
    text: str
    generation: int
    warnings: tuple[Problem, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Content that is refused.

    Attributes:
        error: why; a DocumentError, a StoreError, or a SecretError.
        generation: of the content; None if the file is missing or unreadable.
    """

    error: AbmeshError
    generation: int | None


def generation_of(content: bytes) -> int:
    """The first 52 bits of the content's xxHash64: exact as a floating-point number, which Prometheus samples are."""
    return xxhash.xxh64_intdigest(content) >> 12


def format_generation(generation: int) -> str:
    """A generation as it is shown: 13 hexadecimal digits."""
    return f"{generation:013x}"


class FileStore:
    """The experiments document in a file.

    Args:
        path: the file, which may be a symbolic link; writes keep the link.
        lock_seconds: how long a write waits for other writers.
        warn: called once for everything in the document that is still accepted but should be changed, and with
            whatever else people should know of a write.
        secrets: reads the secrets that a document names, as in :mod:`abmesh.experiment.secrets`; without it, snapshots
            carry none.
        interval: seconds between two looks of :meth:`watch` at the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock_seconds: float = files.LOCK_SECONDS,
        warn: Callable[[str], None] | None = None,
        secrets: Callable[[Document], Document] | None = None,
        interval: float = 0.1,
    ) -> None:
        self._path = path
        self._lock_seconds = lock_seconds
        self._warn = warn or (lambda _: None)
        self._secrets = secrets
        self._interval = interval
        self._warned: set[tuple[str, str]] = set()
        self._last: tuple[bytes, Snapshot | DocumentError] | None = None

    @property
    def path(self) -> Path:
        """The file's path, as it was given."""
        return self._path

    def read(self) -> Snapshot:
        """The document as it is now.

        Raises:
            DocumentError: the content is refused.
            SecretError: a secret that it names cannot be read.
            StoreError: the file is missing or unreadable.
        """
        return self._with_secrets(self._decoded(files.read(self._path, LONGEST)))

    def write_weights(
        self, experiment: str, weights: Mapping[str, int], *, based_on: int, urgent: bool = False
    ) -> Snapshot:
        """Give an experiment new weights; see :func:`abmesh.experiment.codec.edit_weights`.

        If the document already has these weights, the file is not touched.

        Args:
            experiment: its name.
            weights: basis points by variant.
            based_on: generation of the document that the weights were computed from.
            urgent: whether to wait no longer than a second for the lock, and for somebody who has the file open for
                writing, and then write all the same, as a rollback must. The generation is compared even so.

        Returns:
            The document as written.

        Raises:
            Conflict: the document now has another generation.
            DocumentError: the file holds no valid document; it is not touched.
            StoreError: the file cannot be written, or another writer holds the lock for too long.
            UnknownName, WeightsError: see :func:`abmesh.experiment.codec.edit_weights`.
        """
        with self._exclusive(urgent=urgent) as target:
            snapshot = self.read()
            if snapshot.generation != based_on:
                raise self._conflict(based_on, snapshot.generation)
            return self._write_soon(target, snapshot, experiment, weights, urgent=urgent)

    def update_weights(self, experiment: str, change: Callable[[Snapshot], Mapping[str, int]]) -> Snapshot:
        """Give an experiment the weights that a function computes from the current document.

        Other writers wait while the function runs, so that no update is lost and none starves. The function must be
        quick and must not write; it is called again if an editor changes the file meanwhile.

        Raises:
            Conflict: the file was edited during each of ten attempts.
            DocumentError, StoreError, UnknownName, WeightsError: see :meth:`write_weights`.
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

    async def watch(self, interval: float | None = None) -> AsyncIterator[Snapshot | Rejected]:
        """The document's content now, and again whenever it changes; never ends, and raises for no state of the file.

        A valid change is reported within two intervals, a refused one within three. Refused content is reported once;
        the next valid content is reported even if it is the same as before. A file that is written in place more
        slowly may be reported half-written, and again once it is complete. A changed secret is reported within about
        two seconds, with the generation as before.

        Args:
            interval: seconds between looks at the file, instead of the store's.
        """
        pause = self._interval if interval is None else interval
        tracker = Tracker()
        while True:
            seen = atomic.signature(self._path)
            now = time.monotonic()
            if tracker.is_due(seen, now):
                # Parsing takes milliseconds, for large documents seconds: too long for the loop that serves requests.
                found, content = await asyncio.to_thread(self._look)
                unchanged = atomic.signature(self._path) == seen
                if unchanged and tracker.is_news(seen, content, good=isinstance(found, Snapshot), now=now):
                    yield found
            await asyncio.sleep(pause)

    def _look(self) -> tuple[Snapshot | Rejected, tuple[Hashable, ...]]:
        """The file's content, and what identifies it."""
        generation: int | None = None
        try:
            content = files.read(self._path, LONGEST)
            generation = generation_of(content) if len(content) <= LONGEST else None
            snapshot = self._with_secrets(self._decoded(content))
        except SecretError as error:
            return Rejected(error, generation), (generation, str(error))
        except (DocumentError, StoreError) as error:
            return Rejected(error, generation), (generation, "" if generation is not None else str(error))
        return snapshot, (snapshot.generation, *held(snapshot.document).items())

    def _with_secrets(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the secrets as they are now: they change without the document."""
        return snapshot if self._secrets is None else replace(snapshot, document=self._secrets(snapshot.document))

    def _decoded(self, content: bytes) -> Snapshot:
        """The snapshot of some content; the last one is cached, since most reads find the same content again."""
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
            if (warning.path, warning.message) not in self._warned:
                self._warned.add((warning.path, warning.message))
                self._warn(warning.describe(source))
        return Snapshot(document, text, generation_of(content), warnings)

    def recover(self) -> None:
        """Clear up what killed writers left; every write does the same.

        Raises:
            StoreError: the folder cannot be read or written.
        """
        with self._exclusive():
            pass

    @contextlib.contextmanager
    def _exclusive(self, *, urgent: bool = False) -> Iterator[Path]:
        """The real file, with every other writer locked out. If the file cannot be read, no lock file is created."""
        files.read(self._path, LONGEST)
        target = Path(os.path.realpath(self._path))  # Path.resolve raises RuntimeError for a loop of links
        with saves.exclusive(target, self._lock_seconds, self._warn, urgent=urgent):
            yield target

    def _write_soon(
        self, target: Path, snapshot: Snapshot, experiment: str, weights: Mapping[str, int], *, urgent: bool
    ) -> Snapshot:
        """Write weights; if it is urgent, wait for somebody who has the file open for writing, but not for long."""
        limit = time.monotonic() + saves.URGENT_SECONDS
        while True:
            try:
                late = urgent and time.monotonic() >= limit
                return self._write(target, snapshot, experiment, weights, despite_writer=late)
            except Conflict:
                if not urgent or late or self.read().generation != snapshot.generation:
                    raise
                time.sleep(0.05)

    def _write(
        self,
        target: Path,
        snapshot: Snapshot,
        experiment: str,
        weights: Mapping[str, int],
        *,
        despite_writer: bool = False,
    ) -> Snapshot:
        """Write weights, but over nothing else than the snapshot."""
        text, document = codec.edit_weights(snapshot.text, experiment, weights, str(self._path))
        if text == snapshot.text:
            return snapshot
        content, before = text.encode(), snapshot.text.encode()
        with files.prepared(target, content) as copy:
            present = generation_of(files.read(self._path, LONGEST))
            if present != snapshot.generation:
                raise self._conflict(snapshot.generation, present)
            kept = saves.swap(copy, target, expected=before, ours=content, despite_writer=despite_writer)
        if kept:
            self._warn(
                f"{self._path}: somebody has the former document open for writing; what they write goes to {kept}"
            )
        return Snapshot(document, text, generation_of(content), snapshot.warnings)

    def _conflict(self, based_on: int, present: int) -> Conflict:
        return Conflict(
            f"{self._path} has changed: this write is based on generation {format_generation(based_on)}, but the file "
            f"has {format_generation(present)}; read it again and retry"
        )
