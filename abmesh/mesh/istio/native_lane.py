"""Which Experiments can be in the native lane on a rule of Istio's, and why others cannot. Pure.

Merged into somebody's route there is one list of destinations and one thing to hash by, for every request of the route.
What would need another route, or our server, is refused, not done by half.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from abmesh.experiment.model import Experiment
from abmesh.mesh.istio.destinations import hashing, parse
from abmesh.mesh.istio.find import Found
from abmesh.mesh.istio.refusals import Reason, RefusedError
from abmesh.mesh.istio.resources import Matched, Resources
from abmesh.mesh.istio.wanted import Placed
from abmesh.mesh.lane import obstacle
from abmesh.mesh.merge.check import Destination
from abmesh.mesh.merge.pieces import Unassigned

OLDEST = (1, 31)
"""The first Istio that can replace a route's lists."""


def check_native(placed: Placed, version: tuple[int, int]) -> None:
    """Refuse an Experiment in the native lane that could be on no rule.

    Args:
        placed: the Experiment.
        version: Istio's.

    Raises:
        RefusedError: with the field, and what is allowed.
    """
    if version < OLDEST:
        shown = ".".join(map(str, version))
        _refuse(f"lane: native needs Istio 1.31, which can replace a route's hash policy, and this is {shown}")
    problems = list(native_problems(placed.experiment))
    if problems:
        _refuse("; ".join(problems))


def native_problems(experiment: Experiment) -> Iterator[str]:
    """What an Experiment has that no rule can serve in the native lane, each with its field and what is allowed."""
    only = "a route of Istio's has one thing to hash by"
    if len(experiment.unit) != 1 or experiment.unit[0].header is None:
        found = ", ".join(source.label for source in experiment.unit)
        yield f"unit: found {found}; allowed with lane: native, because {only}: one header"
    elif why := obstacle(experiment):
        yield f"unit: {why}"
    elif "%" in experiment.unit[0].header:
        yield f"unit: the header {experiment.unit[0].header} cannot be named in Envoy's format strings"
    if experiment.issue_cookie is not None:
        yield "issueCookie: only the server issues cookies; leave it out, or use lane: ext_proc"
    if experiment.overrides:
        yield "overrides: only the server reads them; leave them out, or use lane: ext_proc"
    if experiment.segments is not None:
        yield "segments: only the server reads them; leave them out, or use lane: ext_proc"
    if experiment.secret_salt is not None:
        yield (
            "saltFile: the EnvoyFilter would show the salt to everybody who may read EnvoyFilters; use salt, or lane: "
            "ext_proc"
        )


def check_native_rule(placed: Placed, found: Found, resources: Resources, own: Destination) -> None:
    """Refuse an Experiment in the native lane that a rule would serve wrongly.

    Raises:
        RefusedError: with the reason.
    """
    experiment = placed.experiment
    if outside := _outside(experiment, found):
        _refuse(
            f"match: {found.ref} takes requests that are outside of the Experiment's match ({outside}), and with lane: "
            "native every request of the rule is assigned; allowed: a match that holds for all of them, such as "
            "pathPrefix: /"
        )
    clusters = [cluster for variant in experiment.variants if (cluster := parse(variant.cluster)) is not None]
    hosts = {cluster.host for cluster in clusters} | {item.host for item in found.rule.destinations}
    _, rule = hashing(hosts, resources)
    if rule:
        _refuse(
            f"lane: the DestinationRule {rule} chooses endpoints by consistentHash, and with lane: native the route "
            "would hash by the unit instead; use lane: ext_proc, which keeps both"
        )
    if placed.unassigned is Unassigned.ROUTE and {name for name, _ in own.shares} != {experiment.control.cluster}:
        _refuse(
            f"unassigned: with lane: native, requests without a unit go to the control, and {found.ref} leads elsewhere"
            " as well; allowed: control"
        )


def native_note(experiment: Experiment) -> str:
    """What a person should know of an Experiment that proxies assign themselves."""
    return (
        f"proxies assign by {experiment.unit[0].label} themselves: one that comes twice is hashed as both values "
        "together, and requests without it go to the control"
    )


def check_alone(one: Experiment, other: Experiment, found: Found) -> None:
    """Refuse an Experiment whose rule has another one, if either of them is in the native lane.

    Raises:
        RefusedError: with the other's name.
    """
    if "native" in (one.lane, other.lane):
        _refuse(
            f"lane: {found.ref} has the Experiment {other.name} (lane: {other.lane}) already, and a rule with lane: "
            "native has one Experiment only; use lane: ext_proc in both"
        )


def _outside(experiment: Experiment, found: Found) -> str:
    """Which requests of a rule are not within an Experiment's match, in words; empty if all are."""
    match = experiment.match
    every = found.rule.matches or (Matched(),)
    if not all(item.path.startswith(match.path_prefix) for item in every):
        return f"pathPrefix: {match.path_prefix}"
    for name, value in match.headers.items():
        if not all((name.lower(), value) in item.headers for item in every):
            return f"headers: {name}"
    domains = {target.domain.rpartition(":")[0] if target.port else target.domain for target in found.targets}
    if match.host is not None and domains != {match.host.lower()}:
        return f"host: {match.host}"
    return ""


def _refuse(message: str) -> NoReturn:
    raise RefusedError(Reason.LANE_UNSUPPORTED, message)
