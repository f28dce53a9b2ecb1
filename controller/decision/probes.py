"""Probes: a real request to a variant that asks whether it answers at all. Pure.

:mod:`controller.rollout.prober` sends them. The emergency stop after a promotion needs one of the control, which has no
users that would show how it is; operators' commands need one of the variant that they send users to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, Field

from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import Cluster
from abmesh.experiment.rollout import Warmup
from controller.records import Record

FRESH_FOR = timedelta(seconds=15)
"""How long a probe says something about now."""

_Count = Annotated[int, Field(ge=0)]


class Probe(Record):
    """What came of asking a variant, once at each place where it can be asked.

    Attributes:
        variant: who was asked.
        at: when the last answer came.
        answered: how many places brought an answer.
        failed: how many did not; with ``answered`` 0 and ``failed`` 0, there is no place to ask at.
        ms: duration of the slowest answer, in milliseconds.
        problem: why the last one failed, with its place.
    """

    variant: str
    at: AwareDatetime
    answered: _Count = 0
    failed: _Count = 0
    ms: float | None = None
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether every place brought an answer, and there is one."""
        return self.answered > 0 and not self.failed

    def says_of(self, variant: str, now: datetime) -> bool:
        """Whether it says how a variant is now."""
        return self.variant == variant and abs(now - self.at) <= FRESH_FOR


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """Whom to ask, and with what.

    Attributes:
        experiment: its name.
        variant: the variant's name.
        cluster: where the document says that its cluster is; None if it does not.
        path: path of the request where the document has no warm-up request.
        warmup: the document's warm-up request, which is the one to send, once.
    """

    experiment: str
    variant: str
    cluster: Cluster | None
    path: str
    warmup: Warmup | None


def probe_target(experiment: Experiment, variant: str, clusters: Mapping[str, Cluster] | None) -> ProbeTarget:
    """What to ask a variant of an experiment, which has a rollout.

    Args:
        experiment: as the document has it.
        variant: the variant's name.
        clusters: the document's.
    """
    name = next(item.cluster for item in experiment.variants if item.name == variant)
    warmup = None if experiment.rollout is None else experiment.rollout.warmup
    return ProbeTarget(experiment.name, variant, (clusters or {}).get(name), experiment.match.path_prefix, warmup)


def summed(variant: str, at: datetime, answers: Sequence[tuple[str, str, float]]) -> Probe:
    """A probe from the answers at all places: each place, why it failed (empty if it did not), and milliseconds."""
    problems = [f"{place}: {problem}" for place, problem, _ in answers if problem]
    durations = [duration for _, problem, duration in answers if not problem]
    return Probe(
        variant=variant,
        at=at,
        answered=len(durations),
        failed=len(problems),
        ms=max(durations, default=None),
        problem=problems[-1] if problems else "",
    )
