"""What typical users meet, as ``abmesh explain`` and reports show it beside what all requests meet. Pure.

Called by :mod:`abmesh.analysis.explanation` and :mod:`abmesh.analysis.rollout_report`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from abmesh.experiment.metrics import Metric
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Interval
from controller.decision.intervals import level_interval
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.users import UserComparison
from controller.decision.verdicts import Judgement
from controller.wording.users import typical_text
from controller.wording.values import show_value


@dataclass(frozen=True, slots=True)
class ExplainedUser:
    """What a typical user of the candidate meets.

    Attributes:
        text: as a sentence, with the value over all requests.
        interval: always-valid limits of the value, each at half of alpha, in the metric's unit.
    """

    text: str
    interval: Interval


def explained_user(judgement: Judgement, rollout: Rollout, evidence: RolloutEvidence) -> ExplainedUser | None:
    """What was found about users beside a guardrail's judgement; None where that is not known."""
    guardrail, found = judgement.guardrail, judgement.typical
    if guardrail is None or found is None:
        return None
    metric, alpha = guardrail.measured, rollout.analysis.alpha
    compared = UserComparison.of(evidence, metric, rollout.tuned_for, alpha)
    interval = level_interval(compared, alpha / 2, share=metric.share, lowest=-1.0 if metric.signed else 0.0)
    limits = f"{_bound(metric, interval.lower)} to {_bound(metric, interval.upper)}"
    return ExplainedUser(typical_text(found, metric, limits), interval)


def _bound(metric: Metric, value: float) -> str:
    return "no limit" if math.isinf(value) else show_value(metric, value)
