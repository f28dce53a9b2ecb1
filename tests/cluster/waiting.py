"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail with ``what`` was waited for, and with what it said last."""
    deadline = time.monotonic() + seconds
    while not (said := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}; the last answer was {said!r}")
        time.sleep(0.05)
