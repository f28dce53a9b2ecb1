"""Why a rule cannot be taken over, or an Experiment not be placed on it. Pure.

A merge keeps everything of a route but its destination. So what decides a destination elsewhere, or would be lost with
the old one, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from abmesh.experiment.cookie_rules import Cookies, cookie_problems
from abmesh.experiment.model import Experiment
from abmesh.mesh.istio.attached import narrower
from abmesh.mesh.istio.destinations import check_backends, hashing, parse
from abmesh.mesh.istio.find import Found
from abmesh.mesh.istio.native_lane import check_native
from abmesh.mesh.istio.refusals import Reason, RefusedError
from abmesh.mesh.istio.resources import Resources
from abmesh.mesh.istio.wanted import Placed, Settings

OLDEST: Final = (1, 30)
"""The first Istio whose proxy has the access logger that counts, and refuses no listener for want of it."""

_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


def check_version(settings: Settings) -> str:
    """Why this Istio cannot be used; empty if it can."""
    found = _version(settings)
    if found is None:
        return f"the version of Istio, {settings.istio_version!r}, is none; allowed: such as 1.31.0"
    if found < OLDEST:
        return (
            f"Istio {settings.istio_version} is too old: its proxies lack the access logger that counts requests, and "
            "would refuse the whole listener; allowed: 1.30 or newer"
        )
    return ""


def _version(settings: Settings) -> tuple[int, int] | None:
    found = _VERSION.match(settings.istio_version)
    return None if found is None else (int(found[1]), int(found[2]))


def check_experiment(placed: Placed, resources: Resources, settings: Settings) -> None:
    """Refuse an Experiment that no route could serve.

    Raises:
        RefusedError: with the reason.
    """
    if placed.experiment.lane == "native":
        check_native(placed, _version(settings) or OLDEST)
    check_backends(placed.experiment, resources, settings)


def check_route(found: Found) -> None:
    """Refuse a rule whose settings would be lost.

    Raises:
        RefusedError: with the reason.
    """
    for item in found.rule.active:
        if item.has_headers and len(found.rule.destinations) > 1:
            raise RefusedError(
                Reason.DESTINATION_HEADERS,
                f"{found.ref}: the destination {item.written or item.host} of several changes headers for itself, "
                "which would be lost; move the change to the rule",
            )


def check_placed(placed: Placed, found: Found, resources: Resources) -> None:
    """Refuse an Experiment that this rule would serve wrongly.

    Raises:
        RefusedError: with the reason.
    """
    experiment = placed.experiment
    clusters = {variant.name: parse(variant.cluster) for variant in experiment.variants}
    hosts = {cluster.host for cluster in clusters.values() if cluster} | {item.host for item in found.rule.destinations}
    _check_cookies(experiment, hosts, resources)
    _check_host(experiment, found)
    if found.rule.authority:
        owners = [item.host for item in found.rule.destinations if _is_name_of(found.rule.authority, item.host)]
        others = [name for name, cluster in clusters.items() if owners and cluster and cluster.host not in owners]
        if others:
            raise RefusedError(
                Reason.AUTHORITY_REWRITTEN,
                f"{found.ref} rewrites the host to {found.rule.authority!r}, the name of one Service, and the variant "
                f"{others[0]!r} is on another; leave the rewrite of the authority out, or rewrite to a neutral name",
            )


def check_together(experiments: Sequence[Experiment]) -> str:
    """Why Experiments of one proxy disagree about a cookie; empty if they do not."""
    cookies = [Cookies(item.name, item.unit, item.issue_cookie, item.counts_continuation) for item in experiments]
    return next((problem.message() for problem in cookie_problems(cookies)), "")


def _check_cookies(experiment: Experiment, hosts: set[str], resources: Resources) -> None:
    hashed, _ = hashing(hosts, resources)
    issued = experiment.issue_cookie
    for cookie in dict.fromkeys([*((issued and [issued.name]) or ()), *(item.cookie for item in experiment.unit)]):
        if cookie not in hashed:
            continue
        verb = "issues" if issued is not None and issued.name == cookie else "reads"
        raise RefusedError(
            Reason.COOKIE_HASHED,
            f"the Experiment {verb} the cookie {cookie!r}, by which the DestinationRule {hashed[cookie]} chooses "
            "endpoints: Istio makes its value of a connection, and two values would move users; allowed: another name",
        )


def _check_host(experiment: Experiment, found: Found) -> None:
    host = experiment.match.host
    if host is None:
        return
    domains = sorted({target.domain.rpartition(":")[0] if target.port else target.domain for target in found.targets})
    if not any(narrower(host, domain) for domain in domains):
        raise RefusedError(
            Reason.ROUTE_UNATTACHED,
            f"{found.ref} serves {', '.join(domains)}, and the Experiment's match is for the host {host}",
        )


def _is_name_of(authority: str, host: str) -> bool:
    name = authority.rsplit(":", 1)[0]
    return host == name or host.startswith(f"{name}.")
