"""Why an Experiment's route is left alone, and what a person should know about one that is not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Reasons of conditions: one word for each cause."""

    ISTIO_TOO_OLD = "IstioTooOld"
    ROUTE_MISSING = "RouteMissing"
    ROUTE_UNNAMED = "RouteUnnamed"
    ROUTE_DOUBLED = "RouteDoubled"
    ROUTE_NOT_FORWARDING = "RouteNotForwarding"
    ROUTE_FOREIGN = "RouteInOtherNamespace"
    ROUTE_UNATTACHED = "RouteUnattached"
    DESTINATION_HEADERS = "DestinationHeaders"
    DESTINATION_UNKNOWN = "DestinationUnknown"
    COOKIE_HASHED = "CookieHashed"
    COOKIE_CONFLICT = "CookieConflict"
    AUTHORITY_REWRITTEN = "AuthorityRewritten"
    LANE_UNSUPPORTED = "LaneUnsupported"
    GATEWAY_NOT_ALLOWED = "GatewayNotAllowed"
    BACKEND_MISSING = "BackendMissing"
    BACKEND_NOT_GRANTED = "BackendNotGranted"
    PLACE_CLASH = "PlaceClash"
    UNASSIGNED_CONFLICT = "UnassignedConflict"
    CALLERS_MISSING = "CallersMissing"
    CALLERS_OVERLAP = "CallersOverlap"


class About(StrEnum):
    """Reasons of notes."""

    CANDIDATE_ON_ROUTE = "CandidateOnRoute"
    CONTROL_NOT_ON_ROUTE = "ControlNotOnRoute"
    NATIVE_LANE = "NativeLane"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that is not done.

    Attributes:
        experiment: whose, as ``namespace/name``.
        reason: the condition's reason.
        message: a sentence: what was found, and what to do.
        route: the route's label if only this route is left alone; empty: all of the Experiment's.
    """

    experiment: str
    reason: Reason
    message: str
    route: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is done, and has a side that a person should know."""

    experiment: str
    reason: About
    message: str
    route: str = ""


class RefusedError(Exception):
    """A route is left alone. Only raised inside this package, which returns it as a :class:`Refusal`."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        self.message = message
        super().__init__(message)
