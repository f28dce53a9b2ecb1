"""What the native lane can express of an experiment, and what it says where it cannot. Pure.

Called by :mod:`abmesh.mesh.native`, and by ``abmesh validate`` for the words.
"""

from __future__ import annotations

from collections.abc import Iterator

from abmesh.experiment.metrics import CONTINUATION
from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import UnitSource
from abmesh.experiment.quantities import format_duration
from abmesh.mesh.variants import STREAM_IDLE, idle_limit

_HOST = "host"


def obstacle(experiment: Experiment) -> str:
    """Why the whole of an experiment is left to the server; empty where Envoy can assign its requests itself."""
    if len({idle_limit(variant) for variant in experiment.variants}) > 1:
        return (
            f"time limits beyond {format_duration(STREAM_IDLE)} must be the same on all variants: how long a request "
            "may stand still belongs to a route, and the variants share one"
        )
    used = set(_headers(experiment))
    if _HOST in used:
        return "Envoy takes a header of the name host for the request's :authority, and the server does not"
    if experiment.segments is not None and not _speakable(experiment.segments.header):
        return f"the header of segments, {experiment.segments.header}, cannot be named in Envoy's formats"
    if all(asks_server(experiment, source) for source in experiment.unit):
        return f"its only unit is the issued cookie, which {CONTINUATION} needs the server for"
    return ""


def asks_server(experiment: Experiment, source: UnitSource) -> bool:
    """Whether requests whose unit is from a source are left to the server.

    The second request of a session marks the session with a cookie that holds a digest, which Envoy cannot compute.
    """
    cookie = experiment.issue_cookie
    return experiment.counts_continuation and cookie is not None and source.cookie == cookie.name


def notes(experiment: Experiment) -> Iterator[str]:
    """What an operator should know of an experiment in the native lane."""
    reason = obstacle(experiment)
    if reason:
        yield f"lane native: the server is asked about every request: {reason}"
        return
    yield (
        "lane native: new weights, a rollout's as well, reach Envoy only through a routes file (`abmesh render envoy "
        "--routes-file`); without one its weights stay as they were rendered"
    )
    for source in experiment.unit:
        if asks_server(experiment, source):
            yield (
                f"lane native: the server is asked about requests identified by {source.label}: {CONTINUATION} marks "
                "a session with a cookie that only the server can write"
            )
    # The odd ones are the same for every document; the page on Envoy lists them.
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


def _speakable(header: str) -> bool:
    """Whether a name stands for itself inside one of Envoy's formats, such as ``%REQ(name)%``."""
    return "%" not in header
