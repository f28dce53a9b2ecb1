"""Which of the filters written last to take back when proxies refuse something. Pure.

A rise of the counter says that something was refused, not what. So the newest route filter is taken back, and if it
rises again, the next one. One that was taken back while it was watched alone is the culprit; the others are applied
again, one at a time, and each is watched alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from abmesh.mesh.istio.envoy_filters import FilterKind
from controller.cluster.filters.memory import Key
from controller.cluster.filters.plan import Write

SECONDS: Final = 5.0
"""How long a filter is watched after it was written."""


@dataclass(frozen=True, slots=True)
class TakeBack:
    """What to do about a rise.

    Attributes:
        write: to be undone.
        proved: whether it was the only one that was watched.
        restore: whether to put back what was there before; else nothing is left.
    """

    write: Write
    proved: bool
    restore: bool


@dataclass
class Probation:
    """The filters that are watched.

    Attributes:
        suspects: filters that must be applied alone.
        baseline: of the counter; None if it cannot be read.
    """

    suspects: set[Key] = field(default_factory=set)
    baseline: float | None = None
    _watched: list[tuple[float, Write, bool]] = field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether anything is watched."""
        return bool(self._watched)

    def may_write(self, key: Key) -> bool:
        """Whether a filter may be applied now."""
        return key not in self.suspects or not self._watched

    def begin(self, count: float | None) -> None:
        """Note the counter before a write."""
        if not self._watched or self.baseline is None:
            self.baseline = count

    def wrote(self, write: Write, at: float, *, restored: bool = False) -> None:
        """Watch a filter that was written.

        Args:
            write: the filter.
            at: when, in seconds.
            restored: whether it is what was there before; then nothing is left to put back.
        """
        self._watched = [item for item in self._watched if item[1].key != write.key]
        self._watched.append((at, write, restored))

    def moved(self, write: Write) -> None:
        """Note a filter of which nothing but weights was written anew.

        It is not watched for that: proxies took all of it before, and whatever else they refuse meanwhile must not put
        old weights back. If it is watched still, what was there before the first write is put back.
        """
        self._watched = [
            (at, replace(write, before=seen.before), restored) if seen.key == write.key else (at, seen, restored)
            for at, seen, restored in self._watched
        ]

    def look(self, count: float | None, at: float) -> TakeBack | None:
        """What to take back, by the counter as it is now; and stop to watch what was watched long enough."""
        found = None
        if count is not None and self.baseline is not None:
            if count > self.baseline and self._watched:
                found = self._newest()
            # A control plane that starts anew counts from 0.
            self.baseline = count
        over = {write.key for since, write, _ in self._watched if at - since >= SECONDS}
        self.suspects -= over
        self._watched = [item for item in self._watched if item[1].key not in over]
        return found

    def clear(self) -> None:
        """Watch nothing."""
        self._watched.clear()
        self.suspects.clear()
        self.baseline = None

    def _newest(self) -> TakeBack:
        routes = [item for item in self._watched if item[1].item.kind in (FilterKind.ROUTE, FilterKind.EVENTS)]
        chosen = (routes or self._watched)[-1]
        proved = len(self._watched) == 1
        self._watched.remove(chosen)
        _, write, restored = chosen
        if proved:
            self.suspects.discard(write.key)
        else:
            self.suspects.add(write.key)
        return TakeBack(write, proved, restore=write.before is not None and not restored)
