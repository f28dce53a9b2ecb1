"""Which kinds of statistics there are at all. Pure.

Imports none of Envoy's messages: a controller compares them (:mod:`abmesh.mesh.parts`) without rendering them.
"""

from __future__ import annotations

from dataclasses import dataclass

from abmesh.experiment.metrics import CONTINUATION
from abmesh.experiment.model import Document


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds of statistics that not every experiment has.

    Attributes:
        continuation: whether second requests of a session count as events.
        events: whether users send feedback events.
        segments: whether users are reported by segment.
        sessions: whether a cookie is issued, so that sessions are counted.
        values: whether events carry values.
    """

    continuation: bool = True
    events: bool = True
    segments: bool = True
    sessions: bool = True
    values: bool = True


def kinds_of(document: Document) -> Kinds:
    """The kinds that the document's experiments need: Envoy names them by what a request carries."""
    events = [event for experiment in document.experiments for event in experiment.events]
    return Kinds(
        continuation=any(event.name == CONTINUATION for event in events),
        events=any(event.name != CONTINUATION for event in events),
        segments=any(experiment.segments is not None for experiment in document.experiments),
        sessions=any(experiment.issue_cookie is not None for experiment in document.experiments),
        values=any(event.value is not None for event in events),
    )
