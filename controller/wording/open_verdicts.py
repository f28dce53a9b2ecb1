"""What follows a value that is neither healthy nor harmful yet. Pure; used by :mod:`controller.wording.verdicts`.

Somebody who is woken by it wants to know three things: which side of the limit it is on, what happens if nothing
changes, and when.
"""

from __future__ import annotations

from datetime import timedelta

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.quantities import format_percent
from controller.decision.comparison import MIN_SLICES
from controller.decision.decide import EDGE_SAMPLE
from controller.decision.forecast import LONGEST
from controller.decision.guardrails import keeps
from controller.decision.means import MIN_MEAN
from controller.decision.policy import next_step
from controller.decision.verdicts import Judgement, OnHarm, Verdict
from controller.records import ExperimentState
from controller.wording.values import show_effect, show_needed, show_probability

_THEN = {OnHarm.ROLLBACK: "rolled back", OnHarm.PAUSE: "paused", OnHarm.REPORT: "harmful"}
"""What becomes of a candidate that is on its way to harm."""


def open_text(judgement: Judgement, guardrail: Guardrail, limit: str, state: ExperimentState) -> str:
    """Where a value stands that is neither healthy nor harmful, how sure that is, and what comes next.

    Args:
        judgement: INCONCLUSIVE, with a value and a limit.
        guardrail: that was judged.
        limit: as it is called: ``its limit of 5%``.
        state: of the rollout.
    """
    if judgement.leads is None:
        return _undecidable(judgement, guardrail, limit, state.control)
    stands = _stands(judgement, guardrail, limit, state.control)
    p, alpha = show_probability(judgement.p_healthy), show_probability(judgement.alpha_healthy)
    tested, then = f"p {p}, needs {alpha}", "healthy"
    if judgement.leads is Verdict.HARMFUL:
        p, alpha = show_probability(judgement.p_harm), show_probability(judgement.alpha_harm)
        tested, then = f"p {p}, {show_effect(judgement.on_harm)} at {alpha}", _THEN[judgement.on_harm]
    if judgement.needed is None and judgement.repeats:
        return f"{stands}: {tested}; {_returning(state)}"
    if judgement.needed is None:
        more = f"more than {LONGEST:.0f} times as many {guardrail.measured.things}"
        return f"{stands}: {tested}; if it stays so, it is {then} after {more}"
    elapsed = timedelta(seconds=judgement.elapsed)
    more = show_needed(judgement.needed, guardrail.measured.things, judgement.latest_n, elapsed)
    return f"{stands}: {tested}; if it stays so, it is {then} after {more}"


def _stands(judgement: Judgement, guardrail: Guardrail, limit: str, control: str) -> str:
    assert judgement.value is not None
    assert judgement.limit is not None
    beyond = "above" if guardrail.upper else "below"
    if not keeps(guardrail, judgement.value, judgement.limit):
        return f"is {beyond} {limit}, but not significantly so far"
    if judgement.leads is Verdict.HARMFUL and guardrail.harm == "any":
        return f"is within {limit}, but {beyond} {control}'s, which is harm, too (harm: any)"
    return f"is within {limit}, but not significantly so far"


def _returning(state: ExperimentState) -> str:
    weight = state.stage.weight
    larger = "" if next_step(state.steps, weight) is None else "a larger step (abmesh promote --step) or "
    return (
        f"at {format_percent(weight)} mostly the same users return, and more of their requests will hardly settle it; "
        f"{larger}more users would"
    )


def _undecidable(judgement: Judgement, guardrail: Guardrail, limit: str, control: str) -> str:
    """Why not even very many requests like these would decide."""
    metric = guardrail.measured
    if judgement.log_e_healthy != 0:
        return f"is at {limit}: too close to it for any number of {metric.things} to settle"
    if metric.quantile is not None and guardrail.compares:
        return f"cannot be compared with {control}'s yet, which takes {EDGE_SAMPLE} requests of {control}"
    if guardrail.compares and judgement.value == 0 and judgement.control == 0:
        return f"cannot be compared with {control}'s while both are 0"
    slices = f"users in {MIN_SLICES} slices on both variants"
    return f"cannot be judged yet, which takes {MIN_MEAN} {metric.things}, and {slices}"
