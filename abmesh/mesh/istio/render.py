"""EnvoyFilters for Experiments, from what was read of the cluster. Pure.

Deterministic: the same Experiments and objects, in any order, give the same EnvoyFilters. What cannot be done is
returned as refusals, and leaves everything else as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from abmesh.experiment.model import Experiment
from abmesh.mesh.istio import check, scopes
from abmesh.mesh.istio.destinations import parse, shares_of
from abmesh.mesh.istio.envoy_filters import EnvoyFilter
from abmesh.mesh.istio.find import Found, Target, find
from abmesh.mesh.istio.fixed import gateway_filter, statistics_filter
from abmesh.mesh.istio.native_lane import check_native_rule
from abmesh.mesh.istio.refusals import Note, Reason, Refusal, RefusedError
from abmesh.mesh.istio.resources import Resources
from abmesh.mesh.istio.routed import document_of, events_filter, route_filter
from abmesh.mesh.istio.scopes import Scope
from abmesh.mesh.istio.shared_route import SharedRoute
from abmesh.mesh.istio.wanted import Placed, RouteRef, Settings
from abmesh.mesh.measured import kinds_of


@dataclass(frozen=True, slots=True)
class Rendered:
    """What is to be there.

    Attributes:
        filters: the EnvoyFilters, those of gateways first.
        refusals: what is left alone, and why.
        notes: what a person should know of the rest.
        clusters: names of Istio's clusters that the routes lead to.
    """

    filters: tuple[EnvoyFilter, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[Note, ...] = ()
    clusters: frozenset[str] = frozenset()


def render(placed: Sequence[Placed], resources: Resources, settings: Settings) -> Rendered:
    """Render all EnvoyFilters of an installation.

    Args:
        placed: every accepted Experiment.
        resources: what was read of the cluster.
        settings: of the installation.
    """
    if why := check.check_version(settings):
        refusals = [Refusal(item.experiment.name, Reason.ISTIO_TOO_OLD, why) for item in placed]
        return Rendered(refusals=tuple(sorted(refusals, key=lambda item: item.experiment)))
    renderer = _Renderer(resources, settings)
    for item in sorted(placed, key=in_order):
        renderer.add(item)
    return renderer.done()


def in_order(placed: Placed) -> tuple[int, int, str, str]:
    """The order in which Experiments of one route are tried: the narrowest first, then the oldest."""
    match = placed.experiment.match
    return -len(match.path_prefix), -len(match.headers), placed.created, placed.experiment.name


@dataclass
class _Renderer:
    resources: Resources
    settings: Settings
    routes: dict[tuple[Scope, RouteRef], SharedRoute] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    def add(self, placed: Placed) -> None:
        """Place an Experiment on its routes, or note why not."""
        name = placed.experiment.name
        try:
            check.check_experiment(placed, self.resources, self.settings)
        except RefusedError as error:
            self.refusals.append(Refusal(name, error.reason, error.message))
            return
        for ref in dict.fromkeys(placed.routes):
            try:
                self._place(placed, ref)
            except RefusedError as error:
                self.refusals.append(Refusal(name, error.reason, error.message, ref.label))

    def _place(self, placed: Placed, ref: RouteRef) -> None:
        namespace = placed.experiment.name.partition("/")[0]
        if ref.namespace != namespace:
            raise RefusedError(
                Reason.ROUTE_FOREIGN,
                f"{ref} is in another namespace than the Experiment; allowed: routes in {namespace}",
            )
        clusters = [parse(variant.cluster) for variant in placed.experiment.variants]
        ports = {cluster.port for cluster in clusters if cluster}
        found = find(ref, self.resources, self.settings, placed.callers, ports)
        check.check_route(found)
        check.check_placed(placed, found, self.resources)
        by_scope: dict[Scope, list[Target]] = {}
        for target in found.targets:
            by_scope.setdefault(target.scope, []).append(target)
        # All or nothing: a route that only some of its proxies split would be measured wrongly.
        joined = [self._join(placed, found, scope, targets) for scope, targets in by_scope.items()]
        for route in joined:
            self.routes[route.scope, found.ref] = route

    def _join(self, placed: Placed, found: Found, scope: Scope, targets: Sequence[Target]) -> SharedRoute:
        """The route of a scope with one more Experiment."""
        known = {other for other, _ in self.routes} | {scope}
        if (twice := scopes.covered_twice(sorted(known), self.settings)) and scope in twice:
            other = twice[0] if twice[1] == scope else twice[1]
            raise RefusedError(
                Reason.CALLERS_OVERLAP,
                f"{scope} may be among {other}, which another Experiment names: every request would be assigned and "
                "counted twice; use the same callers for both, or namespaces for both",
            )
        before = [experiment for experiment in self._experiments(scope) if experiment.name != placed.experiment.name]
        if why := check.check_together([*before, placed.experiment]):
            raise RefusedError(Reason.COOKIE_CONFLICT, f"at {scope}: {why}")
        own = {target: shares_of(found.rule, self.resources, self.settings, target.port) for target in targets}
        if placed.experiment.lane == "native":
            for shares in own.values():
                check_native_rule(placed, found, self.resources, shares)
        shared = self.routes.get((scope, found.ref)) or SharedRoute(scope, found, {})
        return shared.joined(placed, own)

    def _experiments(self, scope: Scope) -> list[Experiment]:
        """The Experiments at a scope, in order, each once."""
        found = {
            item.experiment.name: item
            for (other, _), route in self.routes.items()
            if other == scope
            for item in route.placed
        }
        return [item.experiment for item in sorted(found.values(), key=in_order)]

    def done(self) -> Rendered:
        """What has come together."""
        filters: list[EnvoyFilter] = []
        for scope in sorted({scope for scope, _ in self.routes}):
            experiments = self._experiments(scope)
            routes = [
                self.routes[key]
                for key in sorted(self.routes, key=lambda key: (key[0], key[1].label))
                if key[0] == scope
            ]
            ports = sorted({target.port for route in routes for target in route.own if target.port})
            filters.append(gateway_filter(scope, document_of(experiments), ports, self.settings))
            filters.append(statistics_filter(scope, experiments, self.settings))
            filters += [
                route_filter(scope, route.found, route.own, route.experiments, route.unassigned) for route in routes
            ]
            if hosts := _hosts_with_events(routes):
                filters.append(events_filter(scope, hosts, self.settings.event_origins))
        filters.sort(key=lambda item: (item.body["spec"]["priority"], item.key))
        notes = {note: None for route in self.routes.values() for note in route.notes()}
        return Rendered(
            tuple(filters),
            tuple(sorted(self.refusals, key=lambda item: (item.experiment, item.route))),
            tuple(sorted(notes, key=lambda item: (item.experiment, item.route, item.reason, item.message))),
            frozenset(name for route in self.routes.values() for name in route.clusters),
        )


def _hosts_with_events(routes: Sequence[SharedRoute]) -> dict[Target, list[Experiment]]:
    """The Experiments of each virtual host on which users can send events, in order."""
    found: dict[Target, dict[str, Placed]] = {}
    for route in routes:
        for target in route.own:
            found.setdefault(target, {}).update({item.experiment.name: item for item in route.placed})
    hosts = {
        target: [item.experiment for item in sorted(found[target].values(), key=in_order)] for target in sorted(found)
    }
    return {target: experiments for target, experiments in hosts.items() if kinds_of(document_of(experiments)).events}
