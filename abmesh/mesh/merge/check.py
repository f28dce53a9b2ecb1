"""Which routes abmesh can take over, and the reasons against the others. Pure.

A route keeps everything but its destination. So what decides its destination elsewhere, or depends on it, is refused
rather than lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from abmesh.experiment import names
from abmesh.experiment.errors import RenderError
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Match
from abmesh.mesh.clusters import server_name
from abmesh.mesh.merge.find import Found, describe, is_ours
from abmesh.mesh.merge.look import fields, get, is_empty, items, text
from abmesh.mesh.merge.tree import Mapping, Node
from abmesh.text import shorten

_NO_DESTINATION = {
    "redirect": "redirects",
    "direct_response": "answers itself",
    "filter_action": "lets a filter answer",
    "non_forwarding_action": "forwards nothing",
}
_ELSEWHERE = {
    "cluster_header": "a header chooses its cluster",
    "cluster_specifier_plugin": "a plugin chooses its cluster",
    "inline_cluster_specifier_plugin": "a plugin chooses its cluster",
    "internal_redirect_policy": "a request that it redirects internally would be counted twice",
    "internal_redirect_action": "a request that it redirects internally would be counted twice",
    "metadata_match": "a variant's cluster may lack the subset that metadata_match asks for",
}
_REWRITES = ("host_rewrite_literal", "auto_host_rewrite", "host_rewrite_header", "host_rewrite_path_regex")
_OPERATOR = re.compile(r"[.^$*+?{}\[\]\\()]")
_PATHS = ("prefix", "path", "path_separated_prefix")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a route leads by itself: clusters with their weights, one with any weight if there is no split."""

    shares: tuple[tuple[str, int], ...]


def destination(source: str, found: Found) -> tuple[str, Destination]:
    """The field that says where the named route leads, and what it says.

    Raises:
        RenderError: abmesh cannot take over such a route; the message has the reason.
    """
    route = found.route
    name = text(route, "name")
    if not name or not name.isprintable():
        raise _refused(source, found, "its requests are counted by its name; give it one, of printable characters")
    for field, what in _NO_DESTINATION.items():
        if get(route, field) is not None:
            raise _refused(source, found, f"it {what}, so there is nothing to split")
    action = get(route, "route")
    present = fields(action)
    if "connect_matcher" in fields(get(route, "match")):
        raise _refused(source, found, "it is for CONNECT requests, which carry no unit")
    for field, why in _ELSEWHERE.items():
        if field in present and not is_empty(get(action, field)):
            raise _refused(source, found, why)
    if "cluster" in present:
        return "cluster", Destination(((text(action, "cluster"), 1),))
    if "weighted_clusters" not in present:
        raise _refused(source, found, "it names no cluster")
    return "weighted_clusters", Destination(_shares(source, found, get(action, "weighted_clusters")))


def _shares(source: str, found: Found, split: Node | None) -> tuple[tuple[str, int], ...]:
    for field in ("header_name", "use_hash_policy", "runtime_key_prefix"):
        if field in fields(split):
            raise _refused(source, found, f"its weighted clusters have a {field} of their own")
    made = []
    for item in items(split, "clusters"):
        extra = [field for field in fields(item) if field not in ("name", "weight")]
        if extra:
            why = f"its destination {text(item, 'name')!r} has {extra[0]} of its own, which would be lost"
            raise _refused(source, found, f"{why}; move it to the route")
        weight = text(item, "weight") or "0"
        if not weight.isdecimal():
            raise _refused(source, found, f"the weight {shorten(weight, 40)!r} is not a whole number")
        made.append((text(item, "name"), int(weight)))
    if not any(weight for _, weight in made):
        raise _refused(source, found, "its weighted clusters have no weight")
    return tuple(made)


def check_experiments(source: str, found: Found, document: Document, experiments: Sequence[Experiment]) -> None:
    """Refuse what experiments on this route would need and cannot have.

    Raises:
        RenderError: with the reason.
    """
    action = get(found.route, "route")
    rewrites = next((field for field in _REWRITES if get(action, field) is not None), None)
    cookies = {text(item, "cookie", "name") for item in items(action, "hash_policy") if get(item, "cookie", "ttl")}
    for experiment in experiments:
        for variant in experiment.variants:
            cluster = (document.clusters or {}).get(variant.cluster)
            wanted = None if cluster is None else server_name(cluster)
            if rewrites and wanted is not None and text(action, rewrites) != wanted:
                why = f"its {rewrites} would win over the host that cluster {variant.cluster!r} needs, {wanted}"
                raise _refused(source, found, why)
        if experiment.issue_cookie is not None and experiment.issue_cookie.name in cookies:
            why = (
                f"it sets the cookie {experiment.issue_cookie.name!r} itself (hash_policy), and so does the experiment"
            )
            raise _refused(source, found, f"{why} {experiment.name!r}: two values would move the user; rename one")


def check_order(source: str, found: Found, experiments: Sequence[Experiment], *, events: bool) -> list[str]:
    """Refuse a route that cannot get an experiment's requests, and routes that ours would hide.

    Args:
        source: what to call the configuration.
        found: the route.
        experiments: those that it will serve.
        events: whether routes for events will come first.

    Returns:
        What an operator should know: earlier routes that take some of an experiment's requests.

    Raises:
        RenderError: with the route that is in the way.
    """
    told: list[str] = []
    for place, other in enumerate(items(found.at.host, "routes")):
        if other is found.route or is_ours(other):
            continue
        if events and _own_path(other).startswith(names.EVENTS_PATH):
            why = f"abmesh's routes for events would hide the route {describe(other)}; rename its path"
            raise RenderError(f"{source}: {why}")
        if place > found.place:
            continue
        for experiment in experiments:
            narrow = _narrow(found, experiment)
            if _unconditional(other) and _catches(other, narrow):
                raise RenderError(
                    f"{source}: the route {describe(other)} comes before {text(found.route, 'name')!r} and already "
                    f"takes every request of the experiment {experiment.name!r}; name that route, or move it behind"
                )
            if _may_take(other, experiment.match.model_copy(update={"path_prefix": narrow})):
                told.append(
                    f"the route {describe(other)} comes before {text(found.route, 'name')!r} and may take some of the "
                    f"requests of the experiment {experiment.name!r}, which then never see it"
                )
    return told


def shadow(found: Found, experiment: Experiment) -> str:
    """The earlier route that takes all of an experiment's requests, as a message names it; empty if there is none."""
    earlier = [item for item in items(found.at.host, "routes")[: found.place] if not is_ours(item)]
    narrow = _narrow(found, experiment)
    return next((describe(item) for item in earlier if _unconditional(item) and _catches(item, narrow)), "")


def _narrow(found: Found, experiment: Experiment) -> str:
    """The start of every path of an experiment's requests that take the named route."""
    return max(_own_path(found.route), experiment.match.path_prefix, key=len)


def reaches(found: Found, experiment: Experiment) -> bool:
    """Whether the named route can get any request of an experiment, as far as paths, headers and hosts tell."""
    host = experiment.match.host
    return _may_take(found.route, experiment.match) and (host is None or bool(_strength(found.at.host, host)))


def _may_take(route: Node, wanted: Match) -> bool:
    """Whether a route can take any request of an experiment, as far as paths and headers tell."""
    match = get(route, "match")
    own, prefix = _folded(route, _own_path(route)), _folded(route, wanted.path_prefix)
    if "connect_matcher" in fields(match):
        return False
    if not (own.startswith(prefix) or ("path" not in fields(match) and prefix.startswith(own))):
        return False
    for condition in items(match, "headers"):
        value = wanted.headers.get(text(condition, "name").lower())
        exactly = get(condition, "string_match", "exact")
        if value is not None and exactly is not None and text(condition, "string_match", "exact") != value:
            return False
    return True


def check_hosts(source: str, found: Found, experiments: Sequence[Experiment]) -> None:
    """Refuse a virtual host that another one of the same listener keeps an experiment's host from.

    Raises:
        RenderError: with the other virtual host.
    """
    for experiment in experiments:
        host = experiment.match.host
        if host is None:
            continue
        own = _strength(found.at.host, host)
        for other in items(found.at.manager, "route_config", "virtual_hosts"):
            if _strength(other, host) > own:
                raise RenderError(
                    f"{source}: requests for {host}, the host of the experiment {experiment.name!r}, go to the virtual "
                    f"host {text(other, 'name')!r}, whose domains fit better; name that one"
                )


_Strength = tuple[int, int]


def _strength(virtual_host: Node, host: str) -> _Strength | tuple[()]:
    """How well a virtual host's domains fit a host, in Envoy's order; empty if they do not."""
    fits = (_fit(text(domain).lower(), host.lower()) for domain in items(virtual_host, "domains"))
    return max((fit for fit in fits if fit is not None), default=())


def _fit(domain: str, host: str) -> _Strength | None:
    domain = domain.rsplit(":", 1)[0] if domain.count(":") == 1 else domain
    if domain == host:
        return 4, 0
    if domain == "*":
        return 1, 0
    if domain.startswith("*") and host.endswith(domain[1:]):
        return 3, len(domain)
    if domain.endswith("*") and host.startswith(domain[:-1]):
        return 2, len(domain)
    return None


def _own_path(route: Node) -> str:
    """The start of every path that a route takes; empty if that cannot be told."""
    pattern = text(route, "match", "safe_regex", "regex")
    if pattern:
        return _literal_start(pattern)
    return next((text(route, "match", field) for field in _PATHS if text(route, "match", field)), "")


def _literal_start(pattern: str) -> str:
    """How every text begins that a regular expression matches, as far as that is easily told."""
    if "|" in pattern:
        return ""
    literal = _OPERATOR.split(pattern.removeprefix("^"), maxsplit=1)[0]
    after = pattern.removeprefix("^")[len(literal) :]
    return literal[:-1] if after.startswith(("*", "?", "{")) else literal


def _folded(route: Node, path: str) -> str:
    """A path as a route compares it."""
    return path.lower() if text(route, "match", "case_sensitive").lower() == "false" else path


def _unconditional(route: Node) -> bool:
    """Whether only the path decides if a route takes a request."""
    match = get(route, "match")
    return isinstance(match, Mapping) and set(fields(match)) <= {*_PATHS, "safe_regex", "case_sensitive"}


def _catches(route: Node, prefix: str) -> bool:
    """Whether a route whose path alone decides takes every path with a prefix."""
    own, prefix = _folded(route, _own_path(route)), _folded(route, prefix)
    match = get(route, "match")
    pattern = text(route, "match", "safe_regex", "regex")
    if pattern:
        return pattern.removeprefix("^").removesuffix("$") == own + ".*" and prefix.startswith(own)
    if "prefix" in fields(match):
        return prefix.startswith(own)
    if "path_separated_prefix" in fields(match):
        return prefix.startswith(own + "/")
    return False


def _refused(source: str, found: Found, why: str) -> RenderError:
    return RenderError(f"{source}:{found.route.line}: abmesh cannot take over the route {describe(found.route)}: {why}")
