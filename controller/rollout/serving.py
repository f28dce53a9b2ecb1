"""The interface to who knows whether everybody serves an experiment as it is, so that evidence may begin.

Implemented by :mod:`controller.cluster.serving`. With files nobody says it, and the settle time alone counts. Used by
:mod:`controller.rollout.reconcile`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from abmesh.experiment.model import Experiment


@dataclass(frozen=True, slots=True)
class Served:
    """Whether everybody serves an experiment's weights and buckets.

    Attributes:
        behind: who does not, and what was heard of them, in words; empty if everybody does.
        since: requests from before this moment may have been served otherwise; None if nobody knows.
    """

    behind: str = ""
    since: datetime | None = None


class Serving(Protocol):
    """Says whether everybody serves an experiment; from the tick's thread."""

    def of(self, experiment: Experiment) -> Served:
        """As it is known now of this experiment at these weights and buckets."""
