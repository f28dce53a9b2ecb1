"""The native lane on a rule of Istio's: the proxy's own hash is the law, and what would need more is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment import bucketing
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import BUCKETS
from abmesh.local.istio_check import check_filters
from abmesh.local.processes import find_envoy
from abmesh.mesh.istio.apply import applied
from abmesh.mesh.istio.native_route import without_unit
from abmesh.mesh.istio.strict import problems
from abmesh.mesh.istio.trial import trials
from abmesh.mesh.istio.wanted import Callers, Kind, Placed
from abmesh.mesh.merge.pieces import Unassigned
from tests.abmesh.mesh.documents import values_of
from tests.abmesh.mesh.istio.worlds import (
    HOST,
    SPLIT,
    USUAL,
    A,
    B,
    Json,
    api_gateway,
    experiment,
    http_route,
    patches,
    placed,
    ref,
    refusals,
    rendered,
    service,
    subsets,
    to,
    virtual_service,
)
from tests.examples import examples

VARIANTS = [
    {"name": "model-a", "cluster": A, "weight": 70, "control": True},
    {"name": "model-b", "cluster": B, "weight": 30, "timeout": "3s"},
]


def native(**changes: Any) -> Placed:
    """An Experiment in the native lane on the usual rule, all of whose requests it takes."""
    return placed(experiment(**{"lane": "native", "match": {"path_prefix": "/"}, "variants": VARIANTS} | changes))


def at(weight: int) -> Placed:
    """The same with a weight of the candidate, in basis points."""
    one = native()
    return replace(one, experiment=one.experiment.at({"model-a": BUCKETS - weight, "model-b": weight}, None))


def action(wanted: Placed) -> Json:
    """What the route does."""
    made = rendered(USUAL, wanted)
    assert not made.refusals, made.refusals
    (patch,) = patches(made, "route")
    assert patch["patch"]["operation"] == "MERGE_AND_REPLACE_LIST"
    found: Json = patch["patch"]["value"]["route"]
    return found


def picked(route: Mapping[str, Any], headers: Mapping[str, str]) -> Json:
    """The entry that Envoy picks for a request: the first policy with a header that is there decides."""
    for policy in route["hash_policy"]:
        assert policy["terminal"]
        header = policy["header"]
        if (value := headers.get(header["header_name"])) is None:
            continue
        rewrite = header["regex_rewrite"]
        whole = rewrite["pattern"]["regex"] == "^.*$"
        assert whole or rewrite["pattern"]["regex"] == "^"
        text = rewrite["substitution"] + ("" if whole else value)
        position = xxhash.xxh64_intdigest(text.encode()) % BUCKETS
        for entry in route["weighted_clusters"]["clusters"]:
            position -= entry["weight"]
            if position < 0:
                found: Json = entry
                return found
    raise AssertionError("nothing to hash by: a random variant")


def added(entry: Mapping[str, Any]) -> dict[str, str]:
    """The request headers that an entry adds."""
    return {item["header"]["key"]: item["header"]["value"] for item in entry["request_headers_to_add"]}


def test_every_user_goes_where_the_law_says_with_slice_and_group() -> None:
    route, item = action(native()), native().experiment
    assert route["weighted_clusters"]["use_hash_policy"]
    for number in range(2000):
        user = f"user-{number}"
        cell = item.cells[bucketing.bucket_of(item.hash_salt, user.encode())]
        entry = picked(route, {":method": "GET", "x-user-id": user})
        assert entry["name"] == item.variant(cell.variant).cluster
        assert added(entry) == {
            "x-model-version": cell.variant,
            "x-ab-slice": str(cell.slice),
            "x-ab-group": str(cell.group),
            "x-ab-experiment": "llm/chat",
            # Empty without a unit, and then Envoy leaves it out, so that the request is no evidence.
            "x-ab-route": "%REQ(x-user-id):1%",
        }


@examples(40)
@given(st.integers(0, BUCKETS - 1), st.sampled_from(["GET", "POST", "OPTIONS"]))
def test_requests_without_a_unit_go_to_the_control_at_every_weight(weight: int, method: str) -> None:
    assert picked(action(at(weight)), {":method": method})["name"] == A


def test_where_the_control_has_no_users_they_go_where_all_users_go() -> None:
    assert picked(action(at(BUCKETS)), {":method": "GET"})["name"] == B
    assert without_unit(at(BUCKETS).experiment) == "none-0"


def test_a_client_cannot_choose_what_is_counted() -> None:
    for entry in action(native())["weighted_clusters"]["clusters"]:
        (version,) = [item for item in entry["request_headers_to_add"] if item["header"]["key"] == "x-model-version"]
        assert version["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_the_server_is_not_asked_and_only_variants_with_a_time_limit_set_one() -> None:
    made = rendered(USUAL, native())
    (patch,) = patches(made, "route")
    value = patch["patch"]["value"]
    assert set(value) == {"route", "typed_per_filter_config"}, "a list of the route would take the place of its owner's"
    assert set(value["typed_per_filter_config"]) == {"abmesh.answers", "abmesh.headers"}
    entries = value["route"]["weighted_clusters"]["clusters"]
    limits = {entry["name"]: set(values_of(entry.get("typed_per_filter_config", {}), "key")) for entry in entries}
    assert limits == {A: set(), B: {"x-envoy-upstream-rq-timeout-ms"}}
    assert set(rendered_filters(native(variants=[VARIANTS[0], VARIANTS[1] | {"timeout": None}]))) == {"abmesh.answers"}


def rendered_filters(wanted: Placed) -> Json:
    (patch,) = patches(rendered(USUAL, wanted), "route")
    found: Json = patch["patch"]["value"]["typed_per_filter_config"]
    return found


def test_their_lists_are_replaced_and_nothing_else_of_their_route_is() -> None:
    made = rendered(USUAL, native())
    route = next(item.body for item in made.filters if item.kind == "route")
    (scope, before), *_ = trials([item for item in made.filters if item.kind not in ("events", "route")])
    hosts = before["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    theirs = {
        "name": "v1",
        "match": {"prefix": "/v1/"},
        "request_headers_to_add": [{"header": {"key": "x-theirs", "value": "yes"}}],
        "route": {
            "weighted_clusters": {"clusters": [{"name": A, "weight": 90}, {"name": B, "weight": 10}]},
            "hash_policy": [{"cookie": {"name": "session", "ttl": "1s"}}],
            "timeout": "7s",
            "retry_policy": {"retry_on": "5xx", "retry_host_predicate": [{"name": "theirs"}]},
        },
    }
    hosts["route_config"] = {"virtual_hosts": [{"name": "h", "domains": ["chat.example.com"], "routes": [theirs]}]}
    for times in (1, 2):
        made_of_it = applied(before, [route] * times, scope.context)["static_resources"]["listeners"][0]
        ((after,), *_) = values_of(made_of_it, "routes")
        assert after["request_headers_to_add"] == theirs["request_headers_to_add"]
        assert after["route"]["timeout"] == "7s"
        assert after["route"]["retry_policy"]["retry_host_predicate"] == [{"name": "theirs"}]
        assert len(after["route"]["hash_policy"]) == 2
        weights = [item["weight"] for item in after["route"]["weighted_clusters"]["clusters"]]
        assert sum(weights) == BUCKETS


def _others(**more: Any) -> tuple[Json, ...]:
    return (*USUAL[:3], virtual_service(SPLIT | more))


def on(prefix: str, **more: Any) -> Json:
    return {"match": {"path_prefix": prefix, **more}}


REFUSED: dict[str, tuple[tuple[Json, ...], Placed, str]] = {
    "two units": (USUAL, native(unit=[{"header": "x-user-id"}, {"cookie": "user"}]), "unit: found header x-user-id, "),
    "a cookie": (USUAL, native(unit=[{"cookie": "user"}]), "unit: found cookie user; allowed"),
    "the host": (USUAL, native(unit=[{"header": "host"}]), "unit: Envoy reads a header named host"),
    "no format": (USUAL, native(unit=[{"header": "x-%"}]), "unit: the header x-% cannot be named"),
    "cookie issued": (
        USUAL,
        native(unit=[{"cookie": "user"}], issue_cookie={"name": "user", "max_age": "1h"}),
        "issueCookie: only the server",
    ),
    "override": (USUAL, native(overrides=[{"header": {"x-team": "ml"}, "variant": "model-b"}]), "overrides: only"),
    "segments": (USUAL, native(segments={"header": "x-plan", "values": ["pro"]}), "segments: only"),
    "secret salt": (USUAL, native(secret_salt={"file": "/run/secrets/salt"}), "saltFile: the EnvoyFilter would show"),
    "hashing": (
        (*USUAL, subsets(name="second", loadBalancer={"consistentHash": {"useSourceIp": True}})),
        native(),
        "lane: the DestinationRule llm/second chooses endpoints by consistentHash",
    ),
    "keeps their split": (USUAL, replace(native(), unassigned=Unassigned.ROUTE), "unassigned: with lane: native"),
    "wider than match": (USUAL, native(**on("/v1/")), "match: VirtualService llm/chat, rule 'v1' takes requests"),
    "another prefix": (_others(match=[{"uri": {"prefix": "/v"}}]), native(**on("/v1")), "pathPrefix: /v1"),
    "one of two": (
        _others(match=[{"uri": {"prefix": "/v1/"}}, {"uri": {"exact": "/"}}]),
        native(**on("/v1/")),
        "pathPrefix: /v1/",
    ),
    "a pattern": (_others(match=[{"uri": {"regex": "/v1/.*"}}]), native(**on("/v1/")), "pathPrefix: /v1/"),
    "any case": (
        _others(match=[{"uri": {"prefix": "/v1/"}, "ignoreUriCase": True}]),
        native(**on("/v1/")),
        "pathPrefix: /v1/",
    ),
    "a header's prefix": (
        _others(match=[{"headers": {"x-plan": {"prefix": "pro"}}}]),
        native(**on("/", headers={"x-plan": "pro"})),
        "headers: x-plan",
    ),
    "another host": (USUAL, native(**on("/", host="other.example.com")), "serves chat.example.com"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_need_more_is_refused_with_field_and_reason(name: str) -> None:
    objects, wanted, words = REFUSED[name]
    made = rendered(objects, wanted)
    assert not made.filters
    reason = "RouteUnattached" if name == "another host" else "LaneUnsupported"
    assert refusals(made) == [reason]
    assert words in made.refusals[0].message


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ({}, on("/")),
        ({"match": [{"uri": {"prefix": "/v1/"}}, {"uri": {"exact": "/v1/x"}}]}, on("/v1/")),
        ({"match": [{"headers": {"X-Plan": {"exact": "pro"}}}]}, on("/", headers={"x-plan": "pro"})),
        ({}, on("/", host="chat.example.com")),
    ],
)
def test_a_match_that_holds_for_every_request_of_the_rule_is_taken(rule: Json, match: Json) -> None:
    assert not rendered(_others(**rule), native(**match)).refusals


def test_a_prefix_of_the_gateway_api_takes_the_path_without_its_slash_too() -> None:
    def at_prefix(prefix: str) -> list[str]:
        path = {"path": {"type": "PathPrefix", "value": "/v1/"}}
        backends = [{"name": "llm-inference", "port": 8000}]
        route = http_route({"name": "v1", "matches": [path], "backendRefs": backends})
        clusters = {"a": f"outbound|8000||{HOST}", "b": "outbound|8000||model-b.llm.svc.cluster.local"}
        one = experiment(lane="native", match={"path_prefix": prefix}, **clusters)
        return refusals(
            rendered((service(), service("model-b"), api_gateway(), route), placed(one, ref(Kind.HTTP_ROUTE)))
        )

    assert at_prefix("/v1") == []
    assert at_prefix("/v1/") == ["LaneUnsupported"]


@pytest.mark.parametrize("other", ["native", "ext_proc"])
def test_a_rule_in_the_native_lane_has_one_experiment(other: str) -> None:
    second = placed(experiment("second", match={"path_prefix": "/"}, lane=other), created="2026-02-01T00:00:00Z")
    made = rendered(USUAL, replace(native(), created="2026-01-01T00:00:00Z"), second)
    assert [(item.experiment, item.reason) for item in made.refusals] == [("llm/second", "LaneUnsupported")]
    assert "has the Experiment llm/chat (lane: native) already" in made.refusals[0].message
    assert [item.experiments for item in made.filters if item.kind == "route"] == [("llm/chat",)]


def test_an_older_istio_has_no_way_to_replace_a_list() -> None:
    made = rendered(USUAL, native(), istio_version="1.30.4")
    assert refusals(made) == ["LaneUnsupported"]
    assert "needs Istio 1.31" in made.refusals[0].message
    assert not rendered(USUAL, placed(), istio_version="1.30.4").refusals


def test_what_becomes_of_other_requests_is_said() -> None:
    notes = {str(note.reason): note.message for note in rendered(USUAL, native()).notes}
    assert "one that comes twice is hashed as both values together" in notes["NativeLane"]
    said = [note.message for note in rendered(USUAL, native()).notes]
    assert any("requests without a variant go to the control instead" in message for message in said)
    assert "NativeLane" not in {str(note.reason) for note in rendered().notes}


@pytest.mark.envoy
def test_envoy_accepts_it_on_every_kind_of_route() -> None:
    mesh = (*USUAL[:3], virtual_service(hosts=["llm-inference"], gateways=()))
    clusters = {"a": f"outbound|8000||{HOST}", "b": "outbound|8000||model-b.llm.svc.cluster.local"}
    two: Experiment = experiment(lane="native", match={"path_prefix": "/"}, events=["click"], **clusters)
    worlds = [
        rendered(USUAL, native()),
        rendered(USUAL, at(0)),
        rendered((service(), service("model-b"), api_gateway(), http_route()), placed(two, ref(Kind.HTTP_ROUTE))),
        rendered(mesh, replace(native(), callers=Callers(("web",)))),
        rendered((*USUAL[:3], virtual_service({"name": "v1", "route": [to("model-a")]})), native()),
    ]
    for made in worlds:
        assert not made.refusals
        assert [problem for item in made.filters for problem in problems(item.body, made.clusters)] == []
        check_filters(made.filters, find_envoy())
