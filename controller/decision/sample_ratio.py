"""Whether requests are split as the weights promise. Pure.

A mismatch means that something decides who is counted: a variant whose requests are lost, a cache in front of one of
them, users whose cookie does not come back. Then no comparison can be trusted, so an alarm holds the rollout. Users who
send many requests make counts noisier than independent requests would, so counts are divided by the dispersion of the
slices. An alarm stays: what was lost is missing from the evidence even after the split is right again.
"""

from __future__ import annotations

import math

from abmesh.experiment.names import BUCKETS
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import always_valid_p
from abmesh.inference.sample_ratio import sample_ratio
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import SampleRatio
from controller.evidence.strata import Stratum, request_counts
from controller.evidence.summary import VariantEvidence

HYPOTHESIS = "sample_ratio"
"""Name of "requests are split as the weights promise", for :class:`~controller.decision.history.History`."""


def judge_sample_ratio(rollout: Rollout, evidence: RolloutEvidence, peak: float = -math.inf) -> SampleRatio:
    """What the evidence says about the split, over all stages.

    Args:
        rollout: the plan.
        evidence: what was counted.
        peak: the largest logarithm that the e-value has had at earlier looks.
    """
    alpha = rollout.analysis.sample_ratio_alpha
    strata = []
    for stratum in evidence.strata:
        shares = {name: points / BUCKETS for name, points in stratum.weights.items() if points > 0}
        if len(shares) < 2:
            continue
        counts = [request_counts(_of(stratum, name), evidence.slices) for name in shares]
        strata.append((counts, list(shares.values())))
    if not strata:
        return SampleRatio()
    found = sample_ratio(strata, alpha)
    log_e = max(found.log_e, peak)
    alarm = log_e >= -math.log(alpha)
    seen, promised = _split(evidence.present) if alarm else ({}, {})
    return SampleRatio(alarm, always_valid_p(log_e), found.dispersion, log_e, alarm and found.alarm, seen, promised)


def _split(present: Stratum) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of the current stage's answered requests, as counted and as promised."""
    weights = {name: points for name, points in present.weights.items() if points > 0}
    requests = {name: sum(_of(present, name).codes.values()) for name in weights}
    total = max(sum(requests.values()), 1)
    seen = {name: count / total for name, count in requests.items()}
    return seen, {name: points / BUCKETS for name, points in weights.items()}


def _of(stratum: Stratum, name: str) -> VariantEvidence:
    return stratum.variants.get(name, VariantEvidence())
