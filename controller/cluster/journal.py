"""The journal in a cluster: the newest entries of each experiment in a ConfigMap, and all of them on standard output.

The entry of a change is written before the change, marked as pending; the patch of the status that carries the change
out names the entry's id. A leader that finds a pending entry, after a crash, looks whether the status names it. If not,
the change never happened, and the entry goes. So every change is in the journal exactly once.

Each entry is also one line of JSON on standard output, for whoever keeps logs; the ConfigMap is a ring, whose oldest
entries make room. Implements :class:`controller.state.ports.Recorder`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from abmesh.experiment.errors import StateError
from abmesh.experiment.journal_bound import JournalBound
from controller.cluster.maps import Maps, annotation, binary_of, packed, unpacked
from controller.cluster.names import UID, journal_map
from controller.records import JournalEntry
from controller.state.journal_reader import parse_entry

log = logging.getLogger("abmesh.controller")

KEY: Final = "entries.jsonl.zlib"
"""Under which key the entries are: JSON lines, oldest first, compressed."""

PENDING: Final = "pending"
"""Under which key the id of the entry is whose change may not have happened."""

MOST_BYTES: Final = 512 * 1024
"""Of one experiment's entries, compressed."""


@dataclass
class _Ring:
    lines: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    pending: str = ""

    def add(self, line: bytes) -> None:
        self.lines.append(line)
        self.sizes.append(len(packed(line)))

    def drop_last(self) -> None:
        self.lines.pop()
        self.sizes.pop()

    def trim(self) -> None:
        """Make room: what entries share makes all of them together smaller than their sum."""
        while len(self.lines) > 1 and sum(self.sizes) > MOST_BYTES:
            del self.lines[0], self.sizes[0]


class ClusterJournal:
    """The journal of a cluster's experiments.

    Args:
        maps: the ConfigMaps.
        uid_of: an Experiment's uid; empty if it is not known.
        decision_of: the id of the last decision in an Experiment's status at this moment; may raise StateError.
        tell: gets each entry as a line, once it counts.
    """

    def __init__(
        self,
        maps: Maps,
        uid_of: Callable[[str], str],
        decision_of: Callable[[str], str],
        tell: Callable[[str], None],
    ) -> None:
        self._maps = maps
        self._uid_of = uid_of
        self._decision_of = decision_of
        self._tell = tell
        self._rings: dict[str, _Ring] = {}
        self._dropped: dict[str, JournalEntry] = {}

    def forget(self) -> None:
        """Trust nothing that was read before."""
        self._rings.clear()
        self._dropped.clear()

    def keep_within(self, bound: JournalBound) -> None:
        """Nothing: a ConfigMap has its own bound."""

    def append(self, entry: JournalEntry, *, durable: bool) -> None:  # noqa: ARG002 - the interface has it
        """Write an entry that counts as soon as it is written.

        Raises:
            StateError: it cannot be written.
        """
        self._settle(entry.experiment)
        self._write(entry, pending="")
        self._tell(entry.model_dump_json())

    def begin(self, entry: JournalEntry) -> None:
        """Write the entry of a change that is about to be carried out.

        Raises:
            StateError: it cannot be written.
        """
        self._settle(entry.experiment)
        dropped = self._dropped.get(entry.experiment)
        if dropped is not None and dropped.id == entry.id:  # the same change is tried again
            del self._dropped[entry.experiment]
        self._write(entry, pending=entry.id)

    def done(self, entry: JournalEntry) -> None:
        """The change of the last entry was carried out; the mark goes with the next write."""
        ring = self._rings.get(entry.experiment)
        if ring is not None and ring.pending == entry.id:
            ring.pending = ""
        self._tell(entry.model_dump_json())

    def found(self, experiment: str, decision: str) -> None:
        """Take an entry back in whose change happened after all: its patch came late, after its answer was lost.

        Args:
            experiment: the experiment's name.
            decision: the id of the last decision in its status.

        Raises:
            StateError: it cannot be written.
        """
        dropped = self._dropped.get(experiment)
        if dropped is not None and dropped.id == decision:
            del self._dropped[experiment]
            self.append(dropped, durable=True)

    def knows(self, experiment: str) -> bool:
        """Whether there is any entry about this Experiment, and not only about one that had its name before.

        Raises:
            StateError: the journal cannot be read.
        """
        present = self._maps.read(journal_map(experiment))
        if present is None or annotation(present, UID) != self._uid_of(experiment):
            return False
        self._settle(experiment)
        return bool(self._ring(experiment).lines)

    def entry(self, experiment: str, entry_id: str = "") -> JournalEntry | None:
        """An experiment's entry with an id, or its last one; None if there is none.

        Raises:
            StateError: the journal cannot be read.
        """
        for line in reversed(self._ring(experiment).lines):
            found = parse_entry(line)
            if found is not None and entry_id in ("", found.id):
                return found
        return None

    def entries(self, experiment: str) -> list[JournalEntry]:
        """All that is left, oldest first, without one whose change did not happen.

        Raises:
            StateError: the journal cannot be read.
        """
        ring = self._ring(experiment)
        found = [entry for line in ring.lines if (entry := parse_entry(line)) is not None]
        if ring.pending and self._decision_of(experiment) != ring.pending:
            found = [entry for entry in found if entry.id != ring.pending]
        return found

    def _ring(self, experiment: str) -> _Ring:
        ring = self._rings.get(experiment)
        if ring is None:
            present = self._maps.read(journal_map(experiment))
            ring = self._rings[experiment] = ring_of(present)
        return ring

    def _settle(self, experiment: str) -> None:
        """Find out whether a pending change happened.

        Raises:
            StateError: the API server does not say.
        """
        ring = self._ring(experiment)
        if not ring.pending:
            return
        entry = parse_entry(ring.lines[-1]) if ring.lines else None
        if entry is None or entry.id != ring.pending:
            ring.pending = ""
            return
        if self._decision_of(experiment) == ring.pending:
            self._tell(entry.model_dump_json())
        else:
            ring.drop_last()
            self._dropped[experiment] = entry
        ring.pending = ""

    def _write(self, entry: JournalEntry, pending: str) -> None:
        ring, name = self._ring(entry.experiment), journal_map(entry.experiment)
        ring.add(entry.model_dump_json().encode())
        ring.trim()
        ring.pending = pending
        try:
            self._maps.write(
                name,
                entry.experiment,
                self._uid_of(entry.experiment),
                data={PENDING: pending} if pending else None,
                binary={KEY: packed(b"\n".join(ring.lines))},
            )
        except StateError:
            self._rings.pop(entry.experiment, None)  # it is read again, for it may have been written nevertheless
            raise


def ring_of(present: dict[str, Any] | None) -> _Ring:
    """The entries in a ConfigMap; none if there is none, or they are damaged."""
    ring = _Ring()
    if present is not None:
        for line in unpacked(binary_of(present, KEY)).splitlines():
            ring.add(line)
        ring.pending = str((present.get("data") or {}).get(PENDING, ""))
    return ring
