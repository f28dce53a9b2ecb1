"""The server's own metrics as plain numbers. Pure.

:mod:`ext_proc.service` and :mod:`ext_proc.snapshot` count into one :class:`Counts` per process, without locks: only the
event loop's thread writes. :mod:`ext_proc.exposition` exports them to Prometheus. With several workers, each sends its
counts to the supervisor (:mod:`ext_proc.workers.supervisor`), which adds them up with :func:`merge`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

BUCKETS_US: Final = (10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000)
"""Upper bounds of the processing-time histogram, in microseconds."""

K = TypeVar("K")
REFUSALS: Final = ("connections", "descriptors", "memory", "message", "connection_budget", "server_budget")
"""Why the server refuses connections and messages; the first three are causes of :mod:`abmesh.listening`."""

_BOUNDS_NS: Final = tuple(bound * 1000 for bound in BUCKETS_US)


@dataclass(slots=True)
class Config:
    """The state of the configuration.

    Attributes:
        generation: of the document in force; None before the first valid one.
        loaded_at: when it took effect, in seconds since the epoch.
        rejected: how many edits have been refused.
        error: why the newest edit was refused; empty while it is in force.
        trouble: why changes cannot be followed; empty while they are.
        digests: in a cluster, numbers of what is accepted of each experiment, by name.
    """

    generation: int | None = None
    loaded_at: float = 0.0
    rejected: int = 0
    error: str = ""
    trouble: str = ""
    digests: dict[str, int] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether the newest edit is in force."""
        return self.generation is not None and not self.error


@dataclass(slots=True)
class Counts:
    """Everything that one process has counted since it started.

    Attributes:
        requests: by experiment, variant and reason.
        messages: by kind.
        errors: by kind.
        refused: connections and messages that were refused to protect the server, by cause: one of :data:`REFUSALS`.
        durations: messages by histogram bucket of their processing time; the last bucket has no upper bound.
        duration_ns: the sum of all processing times, in nanoseconds.
        config: the state of the configuration.
    """

    requests: dict[tuple[str, str, str], int] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REFUSALS, 0))
    durations: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_NS) + 1))
    duration_ns: int = 0
    config: Config = field(default_factory=Config)

    def request(self, key: tuple[str, str, str]) -> None:
        """Count a request by experiment, variant and reason."""
        self.requests[key] = self.requests.get(key, 0) + 1

    def message(self, kind: str) -> None:
        """Count a message."""
        self.messages[kind] = self.messages.get(kind, 0) + 1

    def error(self, kind: str) -> None:
        """Count an error."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def refusal(self, cause: str) -> None:
        """Count a refusal."""
        self.refused[cause] += 1

    def duration(self, nanoseconds: int) -> None:
        """Count one message's processing time."""
        self.durations[bisect_left(_BOUNDS_NS, nanoseconds)] += 1
        self.duration_ns += nanoseconds

    def dump(self) -> dict[str, Any]:
        """The counts as JSON values, for :meth:`load`."""
        config = self.config
        return {
            "requests": [[*key, count] for key, count in self.requests.items()],
            "messages": self.messages,
            "errors": self.errors,
            "refused": self.refused,
            "durations": self.durations,
            "duration_ns": self.duration_ns,
            "config": [
                *(config.generation, config.loaded_at, config.rejected, config.error),
                *(config.trouble, config.digests),
            ],
        }

    @classmethod
    def load(cls, content: Mapping[str, Any]) -> Counts:
        """Read what another process wrote with :meth:`dump`."""
        return cls(
            {(experiment, variant, reason): count for experiment, variant, reason, count in content["requests"]},
            content["messages"],
            content["errors"],
            content["refused"],
            content["durations"],
            content["duration_ns"],
            Config(*content["config"]),
        )


def merge(live: Iterable[Counts], retired: Iterable[Counts] = ()) -> Counts:
    """Add up the counts of several processes.

    All workers watch the same document and refuse the same edits, so the configuration is not added up: the result has
    the state of the worker that is furthest behind, with the digests that all have, and the largest number of refused
    edits.

    Args:
        live: counts of running processes.
        retired: counts of processes that have ended; their configuration no longer matters.
    """
    present = list(live)
    total = Counts()
    for counts in (*present, *retired):
        _add(total.requests, counts.requests)
        _add(total.messages, counts.messages)
        _add(total.errors, counts.errors)
        _add(total.refused, counts.refused)
        total.durations = [mine + theirs for mine, theirs in zip(total.durations, counts.durations, strict=True)]
        total.duration_ns += counts.duration_ns
        total.config.rejected = max(total.config.rejected, counts.config.rejected)
    loaded = [counts.config for counts in present if counts.config.generation is not None]
    if loaded:
        oldest = min(loaded, key=lambda config: config.loaded_at)
        total.config.generation, total.config.loaded_at = oldest.generation, oldest.loaded_at
        total.config.digests = {
            name: digest
            for name, digest in oldest.digests.items()
            if all(config.digests.get(name) == digest for config in loaded)
        }
    total.config.trouble = next((counts.config.trouble for counts in present if counts.config.trouble), "")
    total.config.error = next((counts.config.error for counts in present if counts.config.error), "")
    return total


def _add(into: dict[K, int], more: dict[K, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count
