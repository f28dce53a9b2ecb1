"""What is shown beside a decision: a broken control, watching guardrails, secondary goals, checks. Pure.

Made at every tick by :mod:`controller.rollout.reconcile`, shown by ``abmesh status``.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from controller.decision.policy import Situation
from controller.decision.verdicts import OnHarm
from controller.records import Remark
from controller.wording.checks import check_text
from controller.wording.control import breach_text
from controller.wording.values import show_guardrail
from controller.wording.verdicts import goal_text, judgement_text


def remarks_of(situation: Situation, now: datetime) -> tuple[Remark, ...]:
    """The remarks on a situation at a moment, what is wrong with the control first."""
    state = situation.state
    control = [
        Remark(about="control", name=item.metric, verdict="broken", text=breach_text(item, state))
        for item in situation.control.breaches
    ]
    watching = [
        Remark(
            about="dry_run",
            name=show_guardrail(item.guardrail),
            verdict=item.verdict.value,
            text=judgement_text(item, state),
        )
        for item in situation.judgements
        if item.guardrail is not None and item.on_harm is OnHarm.REPORT
    ]
    secondary = [
        Remark(
            about="goal", name=item.metric, verdict=item.verdict.value, text=goal_text(item, situation.rollout, state)
        )
        for item in situation.secondary_goals
    ]
    checks = [
        Remark(
            about="check",
            name=item.name,
            verdict=item.verdict.value,
            text=check_text(item),
            value=item.value,
            at=None if item.age is None else now - timedelta(seconds=item.age),
        )
        for item in situation.checks
    ]
    return (*control, *watching, *secondary, *checks)
