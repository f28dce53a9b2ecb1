"""The interface of a source of statistics, and what it returns. The loop calls it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from controller.evidence.parse import Sample


@dataclass(frozen=True, slots=True)
class Observation:
    """One Envoy's answer, or why there is none.

    Attributes:
        envoy: its address, which identifies it from tick to tick.
        sample: its cumulative values; None if it gave none.
        error: why there is no sample; empty if there is one.
        age: how old the sample was when it was read.
    """

    envoy: str
    sample: Sample | None
    error: str = ""
    age: timedelta = timedelta()


class Source(Protocol):
    """Asks every Envoy for its statistics."""

    async def observe(self) -> list[Observation]:
        """Return one observation for each Envoy; of an Envoy that fails, one with an error. Never raises."""

    async def close(self) -> None:
        """Close connections and stop threads."""
