"""What is wrong with the control, as sentences without a full stop. Pure.

Used by :mod:`controller.wording.reasons`, by the journal's entries, and by whatever shows a rollout's status.
"""

from __future__ import annotations

from abmesh.experiment.quantities import format_share
from controller.decision.control import Breach, ControlHealth
from controller.decision.verdicts import SetAside
from controller.records import ExperimentState
from controller.wording.values import show_probability, show_value


def breach_text(found: Breach, state: ExperimentState) -> str:
    """One limit that the control is beyond: ``error_rate 63% over 1200 requests is significantly above 10%``."""
    judged, guardrail = found.judgement, found.judgement.guardrail
    assert judged.value is not None
    assert judged.limit is not None
    if guardrail is None:
        text = f"error_rate {format_share(judged.value)} over {judged.n} requests"
        limit, beyond = f"the emergency stop's {format_share(judged.limit)}", "above"
    else:
        metric = guardrail.measured
        text = f"{metric.name} {show_value(metric, judged.value)} over {judged.n} {metric.things}"
        limit, beyond = f"the limit of {show_value(metric, judged.limit)}", "above" if guardrail.upper else "below"
    if judged.since is not None:
        text = f"{text} in the last {judged.since:.0f} s"
    worse = f", and {state.candidate} is significantly worse" if found.worse else ""
    return f"{text} is significantly {beyond} {limit}: p {show_probability(judged.p_harm)}{worse}"


def broken_text(health: ControlHealth, state: ExperimentState) -> str:
    """What comes first in every reason while the control is broken; nothing otherwise."""
    if not health.broken:
        return ""
    texts = "; ".join(breach_text(item, state) for item in health.breaches)
    return f"the control {state.control} is broken: {texts}"


def set_aside_text(why: SetAside | None, state: ExperimentState) -> str:
    """Why a verdict does not count, to follow it; nothing if it does."""
    if why is None:
        return ""
    if why is SetAside.CONTROL_FAILS:
        return f"; it does not count, because {state.control} fails significantly more often than {state.candidate}"
    return f"; it does not count, because {state.control} is broken too, and {state.candidate} not significantly worse"
