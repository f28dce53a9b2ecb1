"""What a simulated check found, in one form for tests, for the table of ``make simulations`` and for its JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """How often one rule was right over many simulated experiments.

    Attributes:
        check: what was simulated, as the table's first column has it.
        rule: ours, or the naive one that it is compared with.
        truth: ``same`` where nothing differs, otherwise what does (``errors doubled``).
        runs: simulated experiments.
        found: how many of them the rule raised an alarm in, or found the difference in.
        allowed: for ``same``, the highest rate asked for; None if the rule is known to fail.
        wanted: for a difference, the lowest rate asked for; None if nothing is asked.
    """

    check: str
    rule: str
    truth: str
    runs: int
    found: int
    allowed: float | None = None
    wanted: float | None = None

    @property
    def rate(self) -> float:
        """Share of the runs that found something."""
        return self.found / self.runs

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of the rate, at the rate that was asked for (or, without one, found)."""
        asked = self.allowed if self.allowed is not None else self.wanted
        p = self.rate if asked is None else asked
        return math.sqrt(p * (1 - p) / self.runs)

    @property
    def kept(self) -> bool:
        """Whether the rate is what was asked for, but for three Monte-Carlo standard errors."""
        if self.allowed is not None:
            return self.rate <= self.allowed + 3 * self.error
        return self.wanted is None or self.rate >= self.wanted - 3 * self.error
