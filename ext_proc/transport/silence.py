"""How long a peer has said nothing, and what to do about it. Pure; :mod:`ext_proc.transport.connection` does it."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from ext_proc.transport.shared import Limits

_STRANGER_SECONDS: Final = 3600.0
"""A peer that has not even sent its settings counts as silent for so much longer."""


class Verdict(Enum):
    """What to do with a connection."""

    KEEP = auto()
    PING = auto()
    ABORT = auto()


class Silence:
    """The silence of one peer; all times are the event loop's, in seconds."""

    __slots__ = ("_heard_at", "_opened_at", "_pinged")

    def __init__(self, now: float) -> None:
        self._opened_at = self._heard_at = now
        self._pinged = False

    def since(self, *, greeted: bool) -> float:
        """Since when; long ago for a peer that has not sent its settings."""
        return self._heard_at if greeted else self._opened_at - _STRANGER_SECONDS

    def check(self, now: float, limits: Limits, *, heard: bool, greeted: bool, stuck: bool) -> Verdict:
        """Judge; called regularly.

        Args:
            now: the time.
            limits: of peers.
            heard: whether it said something, or read something, since the last check.
            greeted: whether it has sent its settings.
            stuck: whether it does not read what we send, or what we wrote last.
        """
        if not greeted and now - self._opened_at > limits.handshake:
            return Verdict.ABORT
        if heard:
            self._pinged, self._heard_at = False, now
            return Verdict.KEEP
        silent = now - self._heard_at
        if stuck:
            return Verdict.ABORT if silent > limits.answer else Verdict.KEEP
        if self._pinged:
            return Verdict.ABORT if silent > limits.idle + limits.answer else Verdict.KEEP
        if silent <= limits.idle:
            return Verdict.KEEP
        self._pinged = True
        return Verdict.PING
