"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

_Found = TypeVar("_Found")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Most conditions run kubectl, which takes a third of a second of CPU from what is waited for."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail with ``what`` was waited for, and with what it said last."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not (said := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}; the last answer was {said!r}")
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)


def settled(read: Callable[[], _Found], what: str, quiet: float = 2.0, seconds: float = 60.0) -> _Found:
    """What is read once it has not changed for a while, such as what istiod pushes in several pieces."""
    deadline, found, since = time.monotonic() + seconds, read(), time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what} to stay as it is")
        time.sleep(_LONGEST_PAUSE / 2)
        if (now := read()) != found:
            found, since = now, time.monotonic()
    return found
