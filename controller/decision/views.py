"""One metric of everybody, and of everybody but the users who send most. Pure.

A user who sends most of a variant's requests makes its numbers as uncertain as one user is, and hides what happens to
all others. So an e-value for harm is half on everybody and half on everybody but each variant's busiest slices; the
mean of two e-values is an e-value. Health is judged without the slices that dominate, if any do. Which slices those are
depends on requests alone, so it says nothing about what came of them; see :mod:`abmesh.inference.busiest`.

Called by :mod:`controller.decision.guardrails` and :mod:`controller.decision.emergency_stop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from abmesh.experiment.metrics import Metric
from controller.decision.comparison import Comparison
from controller.decision.rollout_evidence import RolloutEvidence

C = TypeVar("C", bound=Comparison)


@dataclass(frozen=True, slots=True)
class Shown(Generic[C]):
    """The evidence that says most for harm.

    Attributes:
        view: the comparison.
        row: of the moment since when; 0 for all evidence.
        others: whether it is without the busiest slices.
    """

    view: C
    row: int
    others: bool


@dataclass(frozen=True, slots=True)
class Views(Generic[C]):
    """A metric's comparisons.

    Attributes:
        whole: of everybody.
        others: without the slices that dominate, and without each variant's busiest one in any case.
        kept: without the slices that dominate.
        uneven: whether there are any that dominate.
    """

    whole: C
    others: C
    kept: C
    uneven: bool

    @classmethod
    def of(cls, compared: Callable[[RolloutEvidence], C], evidence: RolloutEvidence, metric: Metric) -> Views[C]:
        """Those of some evidence.

        Args:
            compared: compares the metric.
            evidence: with all slices.
            metric: that is compared.
        """
        whole, kept = compared(evidence), evidence.kept(metric)
        uneven = kept is not evidence
        return cls(whole, compared(evidence.without_busiest()), compared(kept) if uneven else whole, uneven)

    @classmethod
    def alike(cls, found: C) -> Views[C]:
        """One comparison that no busy user dominates, in the place of all three."""
        return cls(found, found, found, uneven=False)

    def mixed(self, log_e: Callable[[C], tuple[float, int]], proven: float) -> tuple[float, Shown[C]]:
        """One e-value from that of everybody and that without the busiest.

        Args:
            log_e: the logarithm of one view's e-value, and the row of the moment that says most.
            proven: the logarithm that proves harm.

        Returns:
            Its logarithm, and what says most: everybody's where it would do alone.
        """
        (of_all, row_all), (of_others, row_others) = log_e(self.whole), log_e(self.others)
        others = of_all < min(of_others, proven)
        shown = Shown(self.others, row_others, others=True) if others else Shown(self.whole, row_all, others=False)
        return float(np.logaddexp(of_all, of_others)) - math.log(2), shown
