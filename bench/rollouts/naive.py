"""What a naive controller would have done: compare two error rates request by request, with a test for one look.

It looks at the same answers as the controller, every hundredth, and rolls back at the first p below alpha. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ALPHA: Final = 0.05
EVERY: Final = 100
FEWEST: Final = 30
"""Requests of each variant before the first look."""

_Z: Final = 1.6448536269514722  # one-sided, 5%


@dataclass(slots=True)
class Peeking:
    """A test for one look, used again and again.

    Attributes:
        control: name of the control.
        candidate: name of the candidate.
        looks: how many there were.
        alarmed: whether any of them found the candidate worse.
    """

    control: str = "model-a"
    candidate: str = "model-b"
    looks: int = 0
    alarmed: bool = False

    def look(self, requests: Mapping[str, int], errors: Mapping[str, int]) -> None:
        """Look, if it is time to."""
        a, b = requests.get(self.control, 0), requests.get(self.candidate, 0)
        if min(a, b) < FEWEST or (a + b) % EVERY:
            return
        self.looks += 1
        self.alarmed = self.alarmed or z_of(a, errors.get(self.control, 0), b, errors.get(self.candidate, 0)) > _Z


def z_of(a: int, errors_a: int, b: int, errors_b: int) -> float:
    """The two-proportion z statistic with pooled variance; 0 where nothing or everything failed.

    Args:
        a: requests of the control, at least 1.
        errors_a: how many of them failed.
        b: requests of the candidate, at least 1.
        errors_b: how many of them failed.
    """
    p = (errors_a + errors_b) / (a + b)
    variance = p * (1 - p) * (1 / a + 1 / b)
    return (errors_b / b - errors_a / a) / math.sqrt(variance) if variance > 0 else 0.0
