"""What a route becomes on which the proxy itself assigns users (``lane: native``). Pure.

The route's own list of destinations, and what it hashes by, are replaced; the rest is its owner's. Its weights add up
to the number of buckets, so the proxy picks by the law's own hash (:mod:`abmesh.mesh.native`). Requests without a unit
have a second thing to be hashed by, which is the same for all of them and chosen so that they go to the control.

They take a place among the control's users, with its slice. So the mark of evidence is the first character of the unit:
Envoy leaves a header out that has no value, and what has no mark is not counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import xxhash
from betterproto2 import Casing
from envoy_data_plane.envoy.config.route.v3 import RouteActionHashPolicy, RouteActionHashPolicyHeader
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatchAndSubstitute, RegexMatcher

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.mesh.answers import reads_answers
from abmesh.mesh.filters import HEADERS, sets_headers
from abmesh.mesh.istio.envoy_filters import Json, as_json, patch, typed_first
from abmesh.mesh.native import entry_template, run_entries
from abmesh.mesh.unit_matcher import unit_matcher
from abmesh.mesh.variants import add_header, overwrite_header

REPLACE: Final = "MERGE_AND_REPLACE_LIST"
"""Lists that a patch has take the place of the route's; since Istio 1.31."""

_ALWAYS_THERE: Final = ":method"


def native_merge(match: Mapping[str, Any], experiment: Experiment) -> Json:
    """The patch of a route whose only Experiment is in the native lane.

    Args:
        match: what recognises the route.
        experiment: with the weights in force; its only unit is a header.
    """
    (source,) = experiment.unit
    unit = unit_matcher(source)
    policies = [unit.hash_policy(experiment.hash_salt), _same_for_all(without_unit(experiment))]
    filters = reads_answers(experiment)
    if any(variant.timeout is not None for variant in experiment.variants):
        # The route puts the filter in, and the entries of a variant with a time limit use it.
        filters[HEADERS] = sets_headers({})
    action = {
        "weighted_clusters": {"use_hash_policy": True, "clusters": _entries(experiment, unit.header)},
        "hash_policy": [policy.to_dict(casing=Casing.SNAKE) for policy in policies],
    }
    settings = {name: as_json(value) for name, value in filters.items()}
    return patch("HTTP_ROUTE", match, REPLACE, typed_first({"route": action, "typed_per_filter_config": settings}))


@dataclass(frozen=True, slots=True)
class Shape:
    """An EnvoyFilter without the numbers that a change of weights changes.

    Attributes:
        rest: of it.
        entries: the kinds of weighted clusters that a hash picks from.
    """

    rest: str
    entries: frozenset[str]

    def allows(self, other: Shape) -> bool:
        """Whether an Envoy that took this one takes another one: it has nothing that is not in here."""
        return self.rest == other.rest and other.entries <= self.entries


def shape_of(body: Mapping[str, Any]) -> Shape:
    """What stays of an EnvoyFilter, rendered or read, at all weights."""
    entries: set[str] = set()
    patches = [_without_numbers(item, entries) for item in body.get("spec", {}).get("configPatches", ())]
    rest = {**body.get("spec", {}), "configPatches": patches}
    return Shape(json.dumps(rest, sort_keys=True), frozenset(entries))


def _without_numbers(item: Mapping[str, Any], entries: set[str]) -> Mapping[str, Any]:
    value = item.get("patch", {}).get("value", {})
    action = value.get("route", {})
    if not action.get("weighted_clusters", {}).get("use_hash_policy"):
        return item
    for entry in action["weighted_clusters"].get("clusters", ()):
        added = [
            option
            for option in entry.get("request_headers_to_add", ())
            if option["header"]["key"] not in (names.SLICE, names.GROUP)
        ]
        kind = {name: part for name, part in entry.items() if name not in ("weight", "request_headers_to_add")}
        entries.add(json.dumps({**kind, "request_headers_to_add": added}, sort_keys=True))
    # What requests without a unit are hashed by changes with the control's buckets.
    kept = {**action, "weighted_clusters": {"use_hash_policy": True}, "hash_policy": action.get("hash_policy", ())[:1]}
    return {**item, "patch": {**item["patch"], "value": {**value, "route": kept}}}


def without_unit(experiment: Experiment) -> str:
    """The text by which requests without a unit are hashed: one that falls on the control, if that has any buckets."""
    ranges = experiment.effective_ranges[experiment.control.name]
    for number in count():
        text = f"none-{number}"
        bucket = xxhash.xxh64_intdigest(text.encode()) % names.BUCKETS
        if not ranges or any(start <= bucket < stop for start, stop in ranges):
            return text
    raise AssertionError("unreachable")


def _same_for_all(text: str) -> RouteActionHashPolicy:
    rewrite = RegexMatchAndSubstitute(pattern=RegexMatcher(regex="^.*$"), substitution=text)
    header = RouteActionHashPolicyHeader(header_name=_ALWAYS_THERE, regex_rewrite=rewrite)
    return RouteActionHashPolicy(header=header, terminal=True)


def _entries(experiment: Experiment, header: str) -> list[Json]:
    document = Document.model_construct(version=1, experiments=(experiment,))
    marks = [add_header(names.EXPERIMENT, experiment.name), add_header(names.ROUTE, f"%REQ({header}):1%")]
    templates = {
        # The route's time limit is its owner's, so a variant's own one is set by a header.
        variant.name: entry_template(document, variant, limit=True, version=overwrite_header, marks=marks)
        for variant in experiment.variants
    }
    return run_entries(experiment, templates)
