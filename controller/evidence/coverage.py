"""Which Envoys answered. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which Envoys answered this time.

    Attributes:
        total: how many there are.
        absent: address and reason of each that did not answer.
    """

    total: int
    absent: tuple[tuple[str, str], ...] = ()

    @property
    def answered(self) -> int:
        """How many answered."""
        return self.total - len(self.absent)

    @property
    def complete(self) -> bool:
        """Whether there are any and all answered."""
        return self.total > 0 and not self.absent
