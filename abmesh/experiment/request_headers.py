"""Which request headers a document's assignment depends on. Pure.

The rendered Envoy configuration forwards only these (:mod:`abmesh.mesh`), and the server reads only these
(:mod:`ext_proc.wire`). No other header leaves Envoy.
"""

from __future__ import annotations

from collections.abc import Iterator

from abmesh.experiment.metrics import CONTINUATION
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.names import FORWARDED_PROTO

PATH = ":path"
AUTHORITY = ":authority"
COOKIE = "cookie"
ORIGIN = "origin"


def needed_headers(document: Document) -> tuple[str, ...]:
    """Exact, lower-case names of the headers that the server needs, sorted, each once.

    The path and the host are always among them, because every match uses them. Cookies are only if a unit may be in a
    cookie, and the page that an event comes from only if there are events.
    """
    names = {PATH, AUTHORITY}
    for experiment in document.experiments:
        names.update(_of(experiment))
    return tuple(sorted(names))


def page_headers(experiment: Experiment) -> Iterator[str]:
    """The headers that a page sends so that its event is assigned as its user's other requests are.

    Without those that a page cannot set; a name may come twice.
    """
    for source in experiment.unit:
        if source.header is not None:
            yield source.header
    if experiment.segments is not None:
        yield experiment.segments.header
    yield from experiment.match.headers
    for override in experiment.overrides:
        yield from override.header


def _of(experiment: Experiment) -> Iterator[str]:
    yield from experiment.match.headers
    for source in experiment.unit:
        if source.header is not None:
            yield source.header
        if source.cookie is not None:
            yield COOKIE
    if experiment.issue_cookie is not None and experiment.issue_cookie.secure == "auto":
        yield FORWARDED_PROTO
    for override in experiment.overrides:
        yield from override.header
    if experiment.segments is not None:
        yield experiment.segments.header
    if any(event.name != CONTINUATION for event in experiment.events):
        # The origin of the page that sends the event, and the scheme of our own origin.
        yield ORIGIN
        yield FORWARDED_PROTO
