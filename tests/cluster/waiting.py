"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

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
