"""Whether requests are split as the weights say. Pure.

A split that is off means that something decides who is counted: a variant whose requests are lost, a cache in front of
one of them, users whose cookie does not come back. Then no comparison can be trusted, so an alarm holds the rollout.
Users who repeat make counts noisier than independent requests, so these are divided by the dispersion of the slices.
An alarm stays: what was lost is missing from the evidence, also once the split is right again.
"""

from __future__ import annotations

import math
from dataclasses import replace

from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import format_share
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import always_valid_p
from abmesh.inference.sample_ratio import sample_ratio
from controller.decision.course import Course
from controller.decision.verdicts import Balance
from controller.evidence.strata import Stratum, request_counts
from controller.evidence.summary import VariantEvidence
from controller.wording.values import show_amount

QUESTION = "requests are split as the weights say"
"""What the alarm's e-value speaks against, for :class:`~controller.decision.history.Memory`."""


def judge_balance(rollout: Rollout, course: Course, peak: float = -math.inf) -> Balance:
    """What the evidence says about the split, over all stages.

    Args:
        rollout: the plan.
        course: the evidence.
        peak: the largest logarithm that the e-value has had at earlier looks.
    """
    alpha = rollout.analysis.sample_ratio_alpha
    strata = []
    for stratum in course.strata:
        shares = {name: points / BUCKETS for name, points in stratum.weights.items() if points > 0}
        if len(shares) < 2:
            continue
        counts = [request_counts(_of(stratum, name), course.slices) for name in shares]
        strata.append((counts, list(shares.values())))
    if not strata:
        return Balance()
    found = sample_ratio(strata, alpha)
    log_e = max(found.log_e, peak)
    balance = Balance(False, "", always_valid_p(log_e), found.dispersion, log_e)
    if log_e < -math.log(alpha):
        return balance
    present = course.present
    requests = {name: sum(_of(present, name).codes.values()) for name, points in present.weights.items() if points > 0}
    total = max(sum(requests.values()), 1)
    split = ", ".join(
        f"{name} {format_share(count / total)} instead of {format_share(present.weights[name] / BUCKETS)}"
        for name, count in requests.items()
    )
    were = "are not split as the weights say" if found.alarm else "were not split as the weights say at an earlier look"
    text = (
        f"requests {were} ({split} in this stage): p {show_amount(balance.p)}, where "
        f"{show_amount(alpha)} alarms. Look for a variant whose users send fewer requests because it is slow, requests "
        f"that are lost or answered before Envoy counts them, and clients that do not return their cookie; once that "
        f"is mended, abmesh pause and abmesh resume collect evidence afresh"
    )
    return replace(balance, alarm=True, text=text)


def _of(stratum: Stratum, name: str) -> VariantEvidence:
    return stratum.variants.get(name, VariantEvidence())
