"""Whether one segment of the users says how much its users differ. Pure.

A segment has groups of slices in the place of slices (:meth:`~controller.decision.rollout_evidence.RolloutEvidence.
in_segment`). If most of its requests come from a few of them, nobody can tell how alike the requests of its users are,
and any p would be a guess. Called by :mod:`controller.decision.guardrails` and :mod:`abmesh.analysis.rollout_segments`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abmesh.experiment.metrics import Metric
from abmesh.inference.busiest import effective_slices, needed_slices
from abmesh.inference.numbers import Floats
from controller.decision.comparison import MIN_SLICES
from controller.decision.rollout_evidence import RolloutEvidence


def too_thin(evidence: RolloutEvidence, metric: Metric, *, alone: bool = False) -> bool:
    """Whether no stage has enough effective groups of slices.

    Args:
        evidence: of a segment.
        metric: that is compared.
        alone: whether the candidate's own value is all that is asked for; otherwise both variants need enough.
    """
    a, b = (_enough(n, evidence.slices) for n in _requests(evidence, metric))
    return not bool((b if alone else a & b).any())


def _requests(evidence: RolloutEvidence, metric: Metric) -> tuple[Floats, Floats]:
    """What the metric counts per, of each variant, shape (strata, groups)."""
    if metric.quantile is not None:
        a, b = evidence.latencies.of(metric.histogram)
        return a.sizes()[0], b.sizes()[0]
    rows = evidence.rows(metric)
    return rows.a.n[0], rows.b.n[0]


def _enough(n: Floats, slices: int) -> NDArray[np.bool_]:
    return np.asarray(effective_slices(n) >= needed_slices(slices, MIN_SLICES))
