"""What froze gateways when it was tried: none of it is ever applied, and each is held with a sentence that says why."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from abmesh.mesh.istio.render import Rendered
from controller.cluster.filters.checking import Checks
from controller.cluster.filters.memory import Memory
from controller.cluster.filters.plan import Held, Situation, plan
from controller.cluster.filters.verdicts import managed
from tests.abmesh.mesh.istio.test_native import native
from tests.abmesh.mesh.istio.test_strict import BAD, MADE, Change
from tests.abmesh.mesh.istio.worlds import USUAL, rendered

WORDS = {
    "weights of 0": "sum to 0",
    "weights over uint32": "allowed: 4294967295 by x-ab-place",
    "a weight over uint32": "Value out of range: 4294967296",
    "bad regular expression": "the regular expression 'x-(' is none",
    "too long regular expression": "has 101 characters; allowed: 100",
    "bad Lua": "is none of ours",
    "extension that the proxy lacks": "message descriptor by type_url: type.googleapis.com/xds.type.v3.TypedStruct",
    "bad duration": 'Duration must end with letter "s": soon',
    "unknown type": "a/b.C",
    "unknown field": 'no field named "tiemout"',
    "another spelling": 'multiple "cluster_specifier" oneof fields',
    "unknown field inside": 'no field named "stats_scope"',
    "unknown cluster": "there is no cluster 'outbound|1||none'",
    "unknown filter": "'none' is none of our filters",
    "wrong kind of value": "sum to 0",
    "unknown applyTo": "found 'VIRTUAL_HOST'; allowed: CLUSTER",
}

LANE = rendered(USUAL, native())


def _action(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["spec"]["configPatches"][0]["patch"]["value"]["route"]
    return found


NATIVE: dict[str, tuple[Change, str]] = {
    "weights that are not the buckets": (
        lambda body: _action(body)["weighted_clusters"]["clusters"].pop(),
        "weights by a hash sum to 9940; allowed: 10000",
    ),
    "bad pattern to hash by": (
        lambda body: _action(body)["hash_policy"][0]["header"]["regex_rewrite"]["pattern"].update(regex="("),
        "the regular expression '(' is none",
    ),
    "unknown cluster": (
        lambda body: _action(body)["weighted_clusters"]["clusters"][3].update(name="outbound|1||none"),
        "there is no cluster 'outbound|1||none'",
    ),
    "bad limit": (lambda body: _action(body).update(timeout="soon"), 'Duration must end with letter "s": soon'),
}


def _broken(made: Rendered, kind: str, change: Change) -> Rendered:
    filters = []
    for item in made.filters:
        if item.kind == kind:
            body = copy.deepcopy(item.body)
            change(body)
            filters.append(replace(item, body=body))
        else:
            filters.append(item)
    return replace(made, filters=tuple(filters))


def _check(made: Rendered, kind: str, words: str) -> None:
    (bad,) = [item for item in made.filters if item.kind == kind]
    faults = Checks(None, ["edge"]).faults(made)
    assert faults.keys() == {bad.key}
    assert words in faults[bad.key]
    found = plan(Situation(made, {}, Memory(), datetime.now(UTC), faults=faults))
    assert bad.key not in {write.key for write in found.apply}
    assert len(found.apply) == len(made.filters) - 1, "the others are applied"
    why, message, experiments = found.held[bad.key]
    assert (why, experiments) == (Held.INVALID, ("llm/chat",))
    said = managed(made, found, found.memory)["llm/chat"]
    assert (said.truth, said.reason, said.message) == ("False", "FilterInvalid", message)
    assert words in message


def test_every_bad_value_has_its_sentence() -> None:
    assert WORDS.keys() == BAD.keys()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_held_with_a_sentence_and_the_other_filters_go_on(name: str) -> None:
    kind, change = BAD[name]
    _check(_broken(MADE, kind, change), kind, WORDS[name])


@pytest.mark.parametrize("name", NATIVE)
def test_so_is_one_in_the_native_lane(name: str) -> None:
    change, words = NATIVE[name]
    _check(_broken(LANE, "route", change), "route", words)
