"""What is wrong with rendered filters, before they are applied: strictly by their types, then by a real Envoy."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence

import xxhash

from abmesh.experiment.errors import AbmeshError
from abmesh.mesh.istio.envoy_filters import EnvoyFilter, FilterKind
from abmesh.mesh.istio.native_route import Shape, shape_of
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.scopes import Scope
from abmesh.mesh.istio.strict import problems
from controller.cluster.filters.memory import Key

log = logging.getLogger("abmesh.filters")

Trial = Callable[[Sequence[EnvoyFilter]], str]
"""Lets a real Envoy read filters: why it refuses them, or nothing. Raises AbmeshError if it cannot be asked."""

_REMEMBERED = 4
"""How many shapes of a scope's filters are remembered that a real Envoy took."""

_FIXED = (FilterKind.GATEWAY, FilterKind.STATISTICS)


class Checks:
    """Checks filters, each content once.

    Args:
        trial: asks a real Envoy; None where there is none.
        namespaces: where filters may be.
    """

    def __init__(self, trial: Trial | None, namespaces: Sequence[str]) -> None:
        self._trial = trial
        self._namespaces = tuple(dict.fromkeys(namespaces))
        self._known: dict[str, Mapping[Key, str]] = {}
        self._tried: dict[Scope, list[Shape]] = {}
        self._told = ""

    def faults(self, rendered: Rendered) -> dict[Key, str]:
        """What is wrong, by filter; nothing for one that is safe to apply."""
        found: dict[Key, str] = {}
        known: dict[str, Mapping[Key, str]] = {}
        for scope in sorted({item.scope for item in rendered.filters}):
            items = [item for item in rendered.filters if item.scope == scope]
            digest = _digest(items, rendered)
            known[digest] = self._known[digest] if digest in self._known else self._scope(scope, items, rendered)
            found |= known[digest]
        self._known = known
        return found

    def _scope(self, scope: Scope, items: Sequence[EnvoyFilter], rendered: Rendered) -> dict[Key, str]:
        if scope.namespace not in self._namespaces:
            allowed = ", ".join(self._namespaces) or "none"
            why = f"abmesh may not write in the namespace {scope.namespace}; allowed: {allowed}; see the chart's values"
            return {item.key: why for item in items}
        found = {item.key: "; ".join(wrong) for item in items if (wrong := problems(item.body, rendered.clusters))}
        good = [item for item in items if item.key not in found]
        if self._trial is None or not good:
            return found
        shape = _shape(good)
        # A change of weights must not wait until an Envoy has read what it has read before.
        if any(tried.allows(shape) for tried in self._tried.get(scope, ())):
            return found
        try:
            if why := self._trial(good):
                found |= self._who(self._trial, good, why)
            else:
                self._tried[scope] = [shape, *self._tried.get(scope, ())][:_REMEMBERED]
        except AbmeshError as error:
            if str(error) != self._told:
                self._told = str(error)
                log.warning("no Envoy reads what is rendered for %s before it is applied: %s", scope, error)
        return found

    def _who(self, trial: Trial, items: Sequence[EnvoyFilter], why: str) -> dict[Key, str]:
        """Which of some filters a real Envoy refuses; without the fixed ones, none of the others is of use."""
        fixed = [item for item in items if item.kind in _FIXED]
        if fixed and (wrong := trial(fixed)):
            return {item.key: f"{wrong}" for item in items}
        found = {}
        for item in items:
            if item not in fixed and (wrong := trial([*fixed, item])):
                found[item.key] = f"{wrong}"
        return found or {item.key: f"together with others: {why}" for item in items if item not in fixed}


def _shape(items: Sequence[EnvoyFilter]) -> Shape:
    shapes = [shape_of(item.body) for item in items]
    return Shape("\n".join(item.rest for item in shapes), frozenset().union(*(item.entries for item in shapes)))


def _digest(items: Sequence[EnvoyFilter], rendered: Rendered) -> str:
    said = json.dumps([[item.body for item in items], sorted(rendered.clusters)], sort_keys=True)
    return str(xxhash.xxh3_128_hexdigest(said.encode()))
