"""What a world is, what is seen of one rollout in it, and what is asked of many. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from abmesh.analysis.truth import Truth
from abmesh.experiment.model import Experiment


@dataclass(frozen=True, slots=True)
class Seen:
    """One rollout, or report, in a world.

    Attributes:
        ending: as :class:`abmesh.analysis.simulation.Ending` names it; of a table, ``reported``.
        cause: of the last decision; of a table, ``significant`` or ``open``.
        minutes: of world time, to the end.
        weight: the candidate's before the last decision, in percent.
        requests: the candidate's.
        split_alarm: whether requests ever seemed not to be split as the weights promise.
        said: whether the control was found broken, and every reason said so first.
        found: metrics in which the report finds a difference in some segment.
        reason: of the last decision.
    """

    ending: str
    cause: str
    minutes: float
    weight: float
    requests: int
    split_alarm: bool = False
    said: bool = False
    found: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about every rollout in a world.

    Attributes:
        rule: what is counted, as the table has it.
        happened: whether it happened in one rollout.
        allowed: highest share asked for; None where it is not a fault.
        wanted: lowest share asked for; None where it is not needed.
    """

    rule: str
    happened: Callable[[Seen], bool]
    allowed: float | None = None
    wanted: float | None = None


@dataclass(frozen=True, slots=True)
class Events:
    """A table of two variants' events, of requests that are independent.

    Attributes:
        control: true share of the control's requests that have an event, 0..1.
        other: of the other variant's.
        size: requests of each.
    """

    control: float
    other: float
    size: int


@dataclass(frozen=True, slots=True)
class World:
    """A truth, a document, and what must become of rollouts.

    Attributes:
        name: for ``--only``.
        truth: what is true, in words.
        rules: what the document limits, in words.
        document: the experiment that is rolled out.
        truths: run by run, over and over; every run draws users of its own.
        asked: what must become of it.
        events: instead of a rollout, a table of events as ``abmesh analyze`` reads it.
        longest: world time after which a rollout is undecided.
        tick: world time between two looks.
        runs: how many rollouts, unless told otherwise.
        segments: whether the rollout's report by segment is asked for at the end.
    """

    name: str
    truth: str
    rules: str
    document: Experiment
    truths: tuple[Truth, ...]
    asked: tuple[Asked, ...]
    events: Events | None = None
    longest: timedelta = timedelta(hours=6)
    tick: timedelta = timedelta(minutes=5)
    runs: int = 40
    segments: bool = False
