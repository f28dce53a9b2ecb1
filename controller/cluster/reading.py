"""Evidence and journals in abmesh's namespace, for whoever may only read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from abmesh.kube.client import Client
from abmesh.kube.errors import Forbidden, Missing
from abmesh.kube.resources import CONFIG_MAPS
from controller.cluster import evidence, journal
from controller.cluster.maps import binary_of, unpacked
from controller.cluster.names import evidence_map, journal_map
from controller.cluster.objects import Thing
from controller.cluster.status import status_of
from controller.state.evidence import StageEvidence, load_evidence
from controller.state.journal_lines import KeptLines
from controller.state.journal_reader import parse_entry


class Reading:
    """Reads abmesh's ConfigMaps. Implements :class:`controller.state.ports.EvidenceReader`.

    Args:
        client: to the API server.
        namespace: abmesh's own.
    """

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._forbidden: Forbidden | None = None

    def read(self, experiment: str) -> StageEvidence | None:
        """What was kept of an experiment; None if there is nothing, or nothing that makes sense.

        Raises:
            KubeError: it cannot be read; the message says which right is missing.
        """
        present = self._get(evidence_map(experiment))
        return None if present is None else load_evidence(unpacked(binary_of(present, evidence.KEY)))

    def journal(self, things: Mapping[str, Thing], experiment: str | None = None) -> KeptLines:
        """The entries of some Experiments, oldest first, without those of changes that did not happen.

        Args:
            things: the Experiments, by name.
            experiment: one whose entries are wanted even if it is gone.

        Raises:
            KubeError: they cannot be read.
        """
        names = list(things) if experiment is None else [experiment]
        found = [part for name in names for part in self._lines(name, things.get(name))]
        if len(names) > 1:
            found.sort(key=lambda part: part[0])
        return KeptLines([(line, place) for _, line, place in found])

    def journal_name(self, experiment: str) -> str:
        """What messages call a journal."""
        return f"ConfigMap {self._namespace}/{journal_map(experiment)}"

    def _lines(self, name: str, thing: Thing | None) -> Iterator[tuple[str, bytes, str]]:
        """Time, line and place of each entry."""
        ring = journal.ring_of(self._get(journal_map(name)))
        decided = "" if thing is None else (status_of(thing).get("lastDecision") or {}).get("id", "")
        at = ""
        for number, line in enumerate(ring.lines, 1):
            entry = parse_entry(line)
            if entry is not None:
                if entry.id == ring.pending != decided:
                    continue
                at = entry.at.isoformat()
            yield at, line, f"{self.journal_name(name)}: entry {number}"

    def _get(self, name: str) -> dict[str, Any] | None:
        if self._forbidden is not None:
            raise self._forbidden  # the right is one for all of them
        try:
            return self._client.get(CONFIG_MAPS, self._namespace, name)
        except Missing:
            return None
        except Forbidden as error:
            self._forbidden = error
            raise
