"""What the condition ``Programmed`` says of each Experiment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from abmesh.mesh.istio.refusals import Reason, Refusal
from abmesh.mesh.istio.render import Rendered
from controller.cluster.conditions import Programming
from controller.cluster.filters.memory import Fate, Key, Memory
from controller.cluster.filters.plan import Held, Object, Plan, concerns, experiments_of, same_spec

VANISHED: Final = "RouteVanished"
PROGRAMMED: Final = "Programmed"
IN_GIT: Final = "AppliedByOthers"
MISSING: Final = "FiltersMissing"
OUTDATED: Final = "FiltersOutdated"

_GONE: Final = frozenset({Reason.ROUTE_MISSING, Reason.ROUTE_UNNAMED, Reason.ROUTE_UNATTACHED, Reason.ROUTE_DOUBLED})
"""Refusals that say that a route is there no more, if it was before."""


def managed(
    rendered: Rendered, plan: Plan, memory: Memory, failures: Mapping[Key, str] | None = None
) -> dict[str, Programming]:
    """What to say of Experiments whose filters this controller keeps.

    Args:
        rendered: what should be there.
        plan: what was done about it.
        memory: what is remembered now.
        failures: of filters that the API server did not take.
    """
    found: dict[str, list[Programming]] = {}
    for refusal in rendered.refusals:
        found.setdefault(refusal.experiment, []).append(_refused(refusal, memory))
    held = dict(plan.held)
    for write in plan.apply:
        if write.key in (failures or {}):
            message = f"the EnvoyFilter {'/'.join(write.key)} was not applied: {(failures or {})[write.key]}"
            held[write.key] = Held.FAILED, message, write.item.experiments
    for why, message, names in held.values():
        for name in names:
            found.setdefault(name, []).append(Programming("False", str(why), message))
    for name in dict.fromkeys(name for item in rendered.filters for name in item.experiments):
        if name not in found:
            found[name] = [_split(name, rendered)]
    return {name: _one(said) for name, said in found.items()}


def unmanaged(name: str, rendered: Rendered, existing: Mapping[Key, Object]) -> Programming:
    """What to say of an Experiment whose filters come from Git."""
    if refusals := [item for item in rendered.refusals if item.experiment == name]:
        return Programming("False", str(refusals[0].reason), refusals[0].message)
    cure = "apply what `abmesh render istio` prints"
    for item in rendered.filters:
        if name not in item.experiments:
            continue
        there = existing.get(item.key)
        shown = f"the EnvoyFilter {item.key[0]}/{item.key[1]}"
        if there is None:
            return Programming("False", MISSING, f"{shown} is not there, and this controller does not apply it; {cure}")
        if not same_spec(there, item.body) or name not in experiments_of(there):
            return Programming("False", OUTDATED, f"{shown} is another one than is rendered now; {cure}")
    return Programming("True", IN_GIT, "its EnvoyFilters are applied by somebody else, and as they should be")


def _refused(refusal: Refusal, memory: Memory) -> Programming:
    was = any(
        entry.fate in (Fate.VANISHED, Fate.APPLIED)
        and entry.route
        and refusal.experiment in entry.experiments
        and concerns(refusal.route, entry.route)
        for entry in memory.entries.values()
    )
    if was and refusal.reason in _GONE:
        return Programming("False", VANISHED, f"the route is gone, and its traffic is left alone: {refusal.message}")
    return Programming("False", str(refusal.reason), refusal.message)


def _split(name: str, rendered: Rendered) -> Programming:
    notes = [note for note in rendered.notes if note.experiment == name]
    if notes:
        return Programming("True", str(notes[0].reason), "; ".join(dict.fromkeys(note.message for note in notes)))
    scopes = dict.fromkeys(str(item.scope) for item in rendered.filters if name in item.experiments)
    return Programming("True", PROGRAMMED, f"its routes are split at {'; '.join(scopes)}")


def _one(said: list[Programming]) -> Programming:
    first = said[0]
    message = "; ".join(dict.fromkeys(each.message for each in said))
    return Programming(first.truth, first.reason, message)
