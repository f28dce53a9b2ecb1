"""What a typical user meets, in words, without a full stop. Pure.

Used by :mod:`controller.wording.verdicts`, by ``abmesh explain`` and by reports.
"""

from __future__ import annotations

from abmesh.experiment.metrics import Metric
from abmesh.experiment.quantities import format_share
from controller.decision.verdicts import TypicalUser
from controller.wording.values import show_value


def typical_text(found: TypicalUser, metric: Metric, limits: str) -> str:
    """What a typical user meets and what all requests meet.

    Args:
        found: both.
        metric: what they are of.
        limits: of the typical user's value, in words.
    """
    left = ""
    if found.left_out:
        slices = "1 slice" if found.left_out == 1 else f"{found.left_out} slices"
        left = f", without {slices} with {format_share(found.left_share, 2)} of the requests"
    return (
        f"a typical user has {show_value(metric, found.value)}, within {limits} at any look, from {found.slices} "
        f"slices of users{left}; all requests together have {show_value(metric, found.requests)}"
    )


def disagreement_text(found: TypicalUser, metric: Metric) -> str:
    """How what a typical user meets and what all requests meet disagree."""
    far = f"{'significantly ' if found.apart else ''}{'more' if found.requests > found.value else 'less'}"
    text = (
        f"all requests together have {show_value(metric, found.requests)}, {far} than a typical user's "
        f"{show_value(metric, found.value)}"
    )
    if found.sides:
        text = f"{text}, which is {'within' if found.within else 'beyond'} the limit"
    return f"{text}; {left_out_text(found.left_out, found.left_share)}" if found.left_out else text


def left_out_text(slices: int, share: float) -> str:
    """How busy the slices are that do not count: ``one slice of users has 31% of the requests``."""
    which = "one slice of users has" if slices == 1 else f"{slices} slices of users have"
    return f"{which} {format_share(share, 2)} of the requests"
