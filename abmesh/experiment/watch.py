"""When to read a watched file, and when its content is news. Pure; called by :mod:`abmesh.experiment.store`.

A writer that replaces the file (most editors, Kubernetes, abmesh itself) shows readers the old content or the new one.
A writer that writes in place, or deletes and creates, shows everything in between. So a file is read only after two
looks found the same signature, and bad content is reported only if the next look finds it again.
"""

from __future__ import annotations

from collections.abc import Hashable

Seen = Hashable


class Tracker:
    """Decides when to read and what to report, for one watched file.

    Args:
        reread_after: seconds after which even an unchanged file is read again, since two changes within one tick of
            the file system's clock look like one.
    """

    def __init__(self, reread_after: float = 2.0) -> None:
        self._reread_after = reread_after
        self._previous: Seen = None
        self._judged: Seen = None
        self._judged_at: float | None = None
        self._suspect: Hashable = None
        self._reported: Hashable = None

    def is_due(self, seen: Seen, now: float) -> bool:
        """Whether the file should be read.

        Args:
            seen: the file's signature at this look.
            now: seconds on a monotonic clock.
        """
        is_stable, self._previous = seen == self._previous, seen
        if self._judged_at is None:
            return True
        if seen == self._judged and now - self._judged_at < self._reread_after:
            return False
        return is_stable

    def is_news(self, seen: Seen, content: Hashable, *, good: bool, now: float) -> bool:
        """Whether to report what was read.

        Args:
            seen: the file's signature, the same before and after reading.
            content: identifies what was read; never None.
            good: whether it can be served.
            now: as for :meth:`is_due`.
        """
        is_first = self._judged_at is None
        if not good and not is_first and content not in (self._suspect, self._reported):
            self._suspect = content
            return False
        self._judged, self._judged_at, self._suspect = seen, now, None
        if content == self._reported:
            return False
        self._reported = content
        return True
