"""Finding the listener, virtual host and route that were named, in an Envoy's static configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from abmesh.experiment import names as ours
from abmesh.experiment.errors import RenderError
from abmesh.mesh import warmup
from abmesh.mesh.merge.look import get, items, text
from abmesh.mesh.merge.tree import Mapping, Node, Sequence

_T = TypeVar("_T")

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ELSEWHERE = {"rds": "a route discovery service (rds)", "scoped_routes": "scoped routes"}


@dataclass(frozen=True, slots=True)
class Names:
    """What to look for; an empty name means the only one.

    Attributes:
        source: what to call the configuration in messages.
        listener: name of the listener.
        virtual_host: name of the virtual host.
        route: name of the route.
    """

    source: str
    listener: str = ""
    virtual_host: str = ""
    route: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A virtual host in an HTTP connection manager.

    Attributes:
        listener: the listener's name.
        manager: the connection manager's configuration.
        host: the virtual host.
        routes: its routes.
    """

    listener: str
    manager: Mapping
    host: Mapping
    routes: Sequence


@dataclass(frozen=True, slots=True)
class Found:
    """The named route.

    Attributes:
        at: where it is.
        route: the route.
        place: its index among the host's routes.
    """

    at: Host
    route: Mapping
    place: int


def hosts(root: Mapping) -> Iterator[Host]:
    """Every virtual host of every connection manager whose routes are in the configuration."""
    for listener in items(root, "static_resources", "listeners"):
        for manager in _managers(listener):
            for host in items(manager, "route_config", "virtual_hosts"):
                routes = get(host, "routes")
                if isinstance(host, Mapping) and isinstance(routes, Sequence):
                    yield Host(text(listener, "name"), manager, host, routes)


def find(root: Mapping, names: Names) -> Found:
    """The route that the names mean.

    Raises:
        RenderError: there is none, or more than one, or its routes are not in this configuration.
    """
    listeners = [(text(item, "name"), item) for item in items(root, "static_resources", "listeners")]
    listeners = [(name, item) for name, item in listeners if name != warmup.NAME]
    listener = _named("--listener", "listener", names.listener, listeners, names.source)
    managers = _managers(listener)
    name = text(listener, "name")
    if not managers:
        raise RenderError(f"{names.source}: listener {name!r} has no HTTP connection manager, so no routes")
    for manager in managers:
        for field, what in _ELSEWHERE.items():
            if get(manager, field) is not None:
                raise RenderError(
                    f"{names.source}: listener {name!r} takes its routes from {what}, so they are not in this file; "
                    f"give your control plane what `abmesh render envoy --only routes` prints"
                )
    at = [(text(host, "name"), (manager, host)) for manager in managers for host in _hosts_of(manager)]
    manager, host = _named("--virtual-host", "virtual host", names.virtual_host, at, names.source)
    if get(host, "matcher") is not None:
        raise RenderError(
            f"{names.source}: virtual host {text(host, 'name')!r} has a matcher instead of a list of routes"
        )
    routes = get(host, "routes")
    found = [(text(it, "name"), (place, it)) for place, it in enumerate(items(host, "routes")) if not is_ours(it)]
    place, route = _named("--route", "route", names.route, found, names.source)
    if not isinstance(routes, Sequence) or not isinstance(host, Mapping) or not isinstance(route, Mapping):
        raise RenderError(f"{names.source}: virtual host {text(host, 'name')!r} has no list of routes")
    return Found(Host(name, manager, host, routes), route, place)


def is_ours(route: Node) -> bool:
    """Whether a route is one that abmesh has added; not one that it has taken over."""
    mark = get(route, "metadata", "filter_metadata", ours.METADATA_NAMESPACE)
    return mark is not None and get(mark, "original") is None


def describe(route: Node) -> str:
    """A route as a message names it: its name, or what it matches."""
    name = text(route, "name")
    if name:
        return repr(name)
    for field in ("prefix", "path", "path_separated_prefix"):
        if text(route, "match", field):
            return f"without a name for {field} {text(route, 'match', field)}"
    return "without a name"


def _managers(listener: Node) -> list[Mapping]:
    chains = [*items(listener, "filter_chains"), get(listener, "default_filter_chain")]
    configs = [get(part, "typed_config") for chain in chains for part in items(chain, "filters")]
    return [it for it in configs if isinstance(it, Mapping) and text(it, "@type").endswith("/" + _MANAGER)]


def _hosts_of(manager: Mapping) -> list[Node]:
    return items(manager, "route_config", "virtual_hosts")


def _named(flag: str, kind: str, name: str, candidates: list[tuple[str, _T]], source: str) -> _T:
    matching = [item for found, item in candidates if not name or found == name]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(repr(found) for found, _ in candidates if found) or "none with a name"
    if not matching:
        raise RenderError(f"{source}: no {kind} named {name!r}; there is: {known}")
    if name:
        raise RenderError(f"{source}: {len(matching)} {kind}s are named {name!r}; give each a name of its own")
    raise RenderError(f"{source}: {len(matching)} {kind}s; choose one with {flag}; there is: {known}")
