"""When a watched file is worth reading, and when what was read is news. Pure; called by :mod:`abmesh.experiment.store`.

Files are written in two ways. Whoever replaces a file (most editors, Kubernetes, we ourselves) shows readers the old
content or the new. Whoever writes in place, or deletes and creates, shows them everything in between. So a file is read
only after it has stayed the same for one look, and a content that is no good counts only if the next look finds it
again.
"""

from __future__ import annotations

from collections.abc import Hashable

Seen = Hashable


class Tracker:
    """The memory of one watch.

    Args:
        reread_after: seconds after which an unchanged file is read all the same, since two changes within one tick of
            the file system's clock look like one.
    """

    def __init__(self, reread_after: float = 2.0) -> None:
        self._reread_after = reread_after
        self._previous: Seen = None
        self._judged: Seen = None
        self._judged_at: float | None = None
        self._suspect: Hashable = None
        self._told: Hashable = None

    def is_due(self, seen: Seen, now: float) -> bool:
        """Whether the file should be read.

        Args:
            seen: the file's signature at this look.
            now: seconds of a clock that never goes back.
        """
        is_stable, self._previous = seen == self._previous, seen
        if self._judged_at is None:
            return True
        if seen == self._judged and now - self._judged_at < self._reread_after:
            return False
        return is_stable

    def is_news(self, seen: Seen, content: Hashable, *, good: bool, now: float) -> bool:
        """Whether what was read is to be told.

        Args:
            seen: the file's signature, the same before and after reading.
            content: names what was read; never None.
            good: whether it can be served.
            now: as for :meth:`is_due`.
        """
        is_first = self._judged_at is None
        if not good and not is_first and content not in (self._suspect, self._told):
            self._suspect = content
            return False
        self._judged, self._judged_at, self._suspect = seen, now, None
        if content == self._told:
            return False
        self._told = content
        return True
