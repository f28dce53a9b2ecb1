"""Which Envoys answered. Pure; part of every decision's inputs (:mod:`controller.decision.policy`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which Envoys answered in this tick.

    Attributes:
        total: how many Envoys there are.
        absent: address and reason for each that did not answer.
    """

    total: int
    absent: tuple[tuple[str, str], ...] = ()

    @property
    def answered(self) -> int:
        """How many answered."""
        return self.total - len(self.absent)

    @property
    def complete(self) -> bool:
        """Whether there is at least one Envoy and all of them answered."""
        return self.total > 0 and not self.absent
