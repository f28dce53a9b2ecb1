"""Which of the rights that were granted nobody used, by the API server's audit log. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tests.charts.support import Rules
from tests.cluster.plane.audit import Request

CREATED = 201
REFUSED = 401, 403


def refused(requests: Iterable[Request]) -> list[Request]:
    """Requests that a right was missing for, or a token that is known."""
    return [request for request in requests if request.code in REFUSED]


def unused(granted: Rules, requests: Iterable[Request], namespaces: Collection[str] | None = None) -> Rules:
    """What is left of some rights without those that were used, be it to hear that there is no such object.

    Args:
        granted: the rights.
        requests: what was asked.
        namespaces: where the rights hold; None for everywhere.
    """
    used = {
        (request.group, request.resource, name, verb)
        for request in requests
        if request.code not in REFUSED and (namespaces is None or request.namespace in namespaces)
        for name in ("", request.name)
        for verb in _needed(request)
    }
    left: Rules = {}
    for (group, resource, names), verbs in granted.items():
        rest = {verb for verb in verbs if not any((group, resource, name, verb) in used for name in names or ("",))}
        if rest:
            left[group, resource, names] = frozenset(rest)
    return left


def _needed(request: Request) -> tuple[str, ...]:
    """The verbs that a request needed: server-side apply of what is not there needs two."""
    if request.verb == "patch" and request.code == CREATED:
        return "patch", "create"
    return (request.verb,)
