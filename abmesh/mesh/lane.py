"""Which experiments and units the native lane can express, and why it cannot express the others. Pure.

Called by :mod:`abmesh.mesh.native`, and by ``abmesh validate`` for the notes.
"""

from __future__ import annotations

from collections.abc import Iterator

from abmesh.experiment.metrics import CONTINUATION
from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import UnitSource

_HOST = "host"


def obstacle(experiment: Experiment) -> str:
    """Why all of an experiment is left to the server; empty if Envoy can assign its requests itself."""
    used = set(_headers(experiment))
    if _HOST in used:
        return "Envoy reads a header named host as the request's :authority, and the server does not"
    if experiment.segments is not None and not _can_be_formatted(experiment.segments.header):
        return f"the segments' header, {experiment.segments.header}, cannot be named in Envoy's format strings"
    if all(asks_server(experiment, source) for source in experiment.unit):
        return f"its only unit is the issued cookie, and {_reason(experiment, experiment.unit[0])}"
    return ""


def asks_server(experiment: Experiment, source: UnitSource) -> bool:
    """Whether requests whose unit comes from a source are left to the server.

    Envoy cannot verify an authenticated cookie, nor compute the digest in the cookie that the second request of a
    session sets.
    """
    cookie = experiment.issue_cookie
    if cookie is None or source.cookie != cookie.name:
        return False
    return experiment.counts_continuation or bool(cookie.keys)


def _reason(experiment: Experiment, source: UnitSource) -> str:
    """Why only the server can read a source."""
    cookie = experiment.issue_cookie
    if cookie is not None and cookie.name == source.cookie and cookie.keys:
        return "Envoy cannot verify a cookie that its keys authenticate"
    return f"{CONTINUATION} marks a session with a cookie that only the server can write"


def notes(experiment: Experiment) -> Iterator[str]:
    """What an operator should know about an experiment in the native lane."""
    reason = obstacle(experiment)
    if reason:
        yield f"lane native: the server is asked about every request: {reason}"
        return
    yield (
        "lane native: new weights, including a rollout's, reach Envoy only through a routes file (`abmesh render envoy "
        "--routes-file`); without one, the weights stay as they were rendered"
    )
    for source in experiment.unit:
        if asks_server(experiment, source):
            yield (
                f"lane native: the server is asked about requests identified by {source.label}: "
                f"{_reason(experiment, source)}"
            )
    # These units are the same for every document; docs/operations/envoy.md lists them.
    yield (
        "lane native: the server is asked about requests without a unit, about feedback events, and about units that "
        "Envoy may read differently (see docs/operations/envoy.md)"
    )


def _headers(experiment: Experiment) -> Iterator[str]:
    yield from experiment.match.headers
    for override in experiment.overrides:
        yield from override.header
    for source in experiment.unit:
        if source.header is not None:
            yield source.header
    if experiment.segments is not None:
        yield experiment.segments.header


def _can_be_formatted(header: str) -> bool:
    """Whether a name can be used inside one of Envoy's format strings, such as ``%REQ(name)%``."""
    return "%" not in header
