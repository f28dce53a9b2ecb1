"""What a source of statistics must be able to do for the controller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from controller.evidence.parse import Sample


@dataclass(frozen=True, slots=True)
class Observation:
    """What one Envoy said, or why it said nothing.

    Attributes:
        envoy: its address, by which it is known over time.
        sample: its cumulative values, or None.
        error: why there is no sample; empty if there is one.
        age: how long before it was asked the sample was taken.
    """

    envoy: str
    sample: Sample | None
    error: str = ""
    age: timedelta = timedelta()


class Source(Protocol):
    """Asks every Envoy for its statistics."""

    async def observe(self) -> list[Observation]:
        """One observation of each Envoy, always; an Envoy that fails is an observation with an error."""

    async def close(self) -> None:
        """Give back connections."""
