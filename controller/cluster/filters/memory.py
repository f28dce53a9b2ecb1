"""What must outlive a leader to tell a filter that a person deleted from one that we did. Pure.

It is kept in one ConfigMap. An entry is dropped before we delete its filter, and made after we apply one, so a filter
that has the entry ``applied`` and is not there was deleted by somebody else, whenever a leader dies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from abmesh.experiment.errors import StateError

Key = tuple[str, str]
"""Namespace and name of a filter."""

DATA: Final = "filters.json"
"""Under which the ConfigMap holds it."""


class Fate(StrEnum):
    """What became of a filter."""

    APPLIED = "applied"
    REMOVED = "removed"
    """Somebody deleted it."""
    REJECTED = "rejected"
    """Envoys refused it, so we took it back."""
    VANISHED = "vanished"
    """The route that it was for is gone, so we deleted it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of one filter.

    Attributes:
        fate: what became of it.
        digest: of the content that this happened to.
        at: when, in ISO form.
        experiments: for whom it was.
        route: the label of its route; empty: none in particular.
        why: of a rejected one, what is known of the reason.
    """

    fate: Fate
    digest: str
    at: str
    experiments: tuple[str, ...]
    route: str = ""
    why: str = ""

    def resumed(self, resumes: Mapping[str, datetime]) -> bool:
        """Whether somebody has asked since to go on with one of its Experiments."""
        return any(name in resumes and resumes[name] >= datetime.fromisoformat(self.at) for name in self.experiments)


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of all filters.

    Attributes:
        owner: uid of the chart's object that owned them; what another installation remembers is of no use.
        entries: by filter.
    """

    owner: str = ""
    entries: Mapping[Key, Entry] = field(default_factory=dict)

    def of(self, key: Key) -> Entry | None:
        """What is remembered of a filter."""
        return self.entries.get(key)

    def with_entries(self, changes: Mapping[Key, Entry | None]) -> Memory:
        """It with some entries replaced; None drops one."""
        merged = {**self.entries, **changes}
        return replace(self, entries={key: entry for key, entry in sorted(merged.items()) if entry is not None})

    def with_fate(self, keys: Iterable[Key], fate: Fate, at: datetime, why: str = "") -> Memory:
        """It with another fate of some filters that it knows."""
        known = self.entries
        return self.with_entries(
            {key: replace(known[key], fate=fate, at=at.isoformat(), why=why) for key in keys if key in known}
        )


def packed(memory: Memory) -> str:
    """As text."""
    entries = [[*key, asdict(entry)] for key, entry in sorted(memory.entries.items())]
    return json.dumps({"owner": memory.owner, "filters": entries}, sort_keys=True)


def unpacked(text: str) -> Memory:
    """The reverse of :func:`packed`.

    Raises:
        StateError: somebody has changed it so that it cannot be read.
    """
    try:
        found = json.loads(text)
        entries = {(namespace, name): _entry(fields) for namespace, name, fields in found["filters"]}
        return Memory(str(found["owner"]), entries)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"what is remembered of EnvoyFilters cannot be read: {error!r}; delete the ConfigMap"
        ) from None


def _entry(fields: Mapping[str, Any]) -> Entry:
    datetime.fromisoformat(fields["at"])
    return Entry(
        Fate(fields["fate"]),
        str(fields["digest"]),
        str(fields["at"]),
        tuple(map(str, fields["experiments"])),
        str(fields["route"]),
        str(fields["why"]),
    )
