"""What becomes of a route: where its requests go, at which proxies, and in which words."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.places import POSITIONS, place_of
from abmesh.mesh.istio.wanted import Callers, Kind, Placed
from abmesh.mesh.merge.pieces import Unassigned
from tests.abmesh.mesh.istio.worlds import (
    BETA,
    HOST,
    SPLIT,
    USUAL,
    A,
    B,
    api_gateway,
    entries,
    experiment,
    gateway,
    http_route,
    patches,
    placed,
    ref,
    refusals,
    rendered,
    service,
    subsets,
    thing,
    to,
    virtual_service,
)
from tests.examples import examples

ON_HTTP_ROUTE = (service(), service("model-b"), api_gateway(), http_route())
TWO_SERVICES = experiment(a=f"outbound|8000||{HOST}", b="outbound|8000||model-b.llm.svc.cluster.local")


def variants(of: list[dict[str, Any]]) -> dict[int, str]:
    """Which cluster is at the place of each variant."""
    reached, found = 0, {}
    for entry in of:
        if any(option["header"]["key"] == "x-ab-route" for option in entry["request_headers_to_add"]):
            found[reached] = entry["name"]
        reached += entry["weight"]
    return found


def test_a_route_that_holds_the_candidate_sends_whoever_has_no_variant_to_the_control() -> None:
    made = rendered()
    assert not made.refusals
    assert {note.reason for note in made.notes} == {"CandidateOnRoute"}
    assert len(made.notes) == 2, "their own split, and their rule for beta testers"
    assert variants(entries(made)) == {place_of("llm/chat", "model-a"): A, place_of("llm/chat", "model-b"): B}
    assert sum(entry["weight"] for entry in entries(made)) == POSITIONS
    assert sum(entry["weight"] for entry in entries(made) if entry["name"] == A) == POSITIONS - 1


def test_a_list_of_destinations_is_thrown_away_before_ours_is_merged() -> None:
    first, second = patches(rendered(), "route")
    assert first["patch"]["value"] == {"route": {"cluster": A}}
    assert first["match"] == second["match"]
    assert first["match"]["routeConfiguration"]["vhost"] == {
        "domainName": "chat.example.com",
        "route": {"action": "ROUTE", "name": "v1"},
    }
    # Two hosts of one virtual host are merged one after the other: what is no map must not grow.
    assert set(second["patch"]["value"]) == {"route", "typed_per_filter_config"}


def test_the_routes_own_split_is_kept_if_somebody_wants_it() -> None:
    made = rendered(USUAL, placed(unassigned=Unassigned.ROUTE))
    shares = {name: sum(entry["weight"] for entry in entries(made) if entry["name"] == name) for name in (A, B)}
    assert shares[B] / POSITIONS == pytest.approx(0.1, abs=1e-6)
    assert "a part of them" in made.notes[0].message


def test_a_route_to_one_other_destination_keeps_it_and_says_so() -> None:
    made = rendered((*USUAL[:3], virtual_service({"name": "v1", "route": [to()]})))
    own = f"outbound|8000||{HOST}"
    assert sum(entry["weight"] for entry in entries(made) if entry["name"] == own) == POSITIONS - 2
    assert [note.reason for note in made.notes] == ["ControlNotOnRoute"]


def test_an_http_route_is_found_by_its_rule_at_its_gateway() -> None:
    made = rendered(ON_HTTP_ROUTE, placed(TWO_SERVICES, ref(Kind.HTTP_ROUTE)))
    assert not made.refusals
    for item in made.filters:
        target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "chat-gw"}
        assert item.body["spec"]["targetRefs"] == [target]
        assert item.body["metadata"]["namespace"] == "edge"
    assert set(variants(entries(made)).values()) == {f"outbound|8000||{HOST}", TWO_SERVICES.variants[1].cluster}


def test_an_http_routes_only_rule_needs_no_name() -> None:
    one = http_route({"backendRefs": [{"name": "llm-inference", "port": 8000}]})
    made = rendered((*ON_HTTP_ROUTE[:3], one), placed(TWO_SERVICES, ref(Kind.HTTP_ROUTE, rule="")))
    assert patches(made, "route")[0]["match"]["routeConfiguration"]["vhost"]["route"]["name"] == "llm.chat.0"


def test_the_only_rule_of_a_host_needs_no_name() -> None:
    made = rendered((*USUAL[:3], virtual_service({"route": [to("model-a")]})), placed(None, ref(rule="")))
    assert not made.refusals
    assert patches(made, "route")[0]["match"]["routeConfiguration"]["vhost"]["route"] == {"action": "ROUTE"}


def test_each_gateway_gets_filters_where_its_pods_are() -> None:
    both = virtual_service(gateways=("edge/edge", "infra/inner"))
    pod = thing("v1", "Pod", "gw-1", "ingress", {}, labels={"app": "edge", "x": "y"})
    inner = gateway("inner", "infra", app="inner")
    made = rendered((*USUAL[:3], both, inner, pod, service("inner-gw", "lb", selector={"app": "inner"})))
    where = {(item.scope.namespace, item.kind) for item in made.filters}
    assert where == {(place, kind) for place in ("ingress", "lb") for kind in ("gateway", "statistics", "route")}


def test_pods_that_two_gateways_select_are_patched_once() -> None:
    wide, narrow = gateway("wide", app="edge"), gateway("narrow", app="edge", tier="public")
    two = [
        virtual_service(name="one", hosts=["one.example.com"], gateways=["edge/wide"]),
        virtual_service(name="two", hosts=["two.example.com"], gateways=["edge/narrow"]),
    ]
    made = rendered((*USUAL[:2], wide, narrow, *two), placed(None, ref(name="one"), ref(name="two")))
    assert [item.kind for item in made.filters] == ["gateway", "statistics", "route", "route"]
    assert {json.dumps(item.body["spec"]["workloadSelector"]) for item in made.filters} == {
        '{"labels": {"app": "edge"}}'
    }


@pytest.mark.parametrize(
    ("served", "hosts", "expected"),
    [
        (["*"], ["chat.example.com", "alias.example.com"], {"alias.example.com", "chat.example.com"}),
        (["chat.example.com"], ["*"], {"chat.example.com"}),
        (["*.example.com", "*.other.org"], ["chat.example.com"], {"chat.example.com"}),
        (["llm/*.example.com"], ["chat.example.com"], {"chat.example.com"}),
    ],
)
def test_hosts_are_those_that_route_and_gateway_share(served: list[str], hosts: list[str], expected: set[str]) -> None:
    made = rendered((*USUAL[:2], gateway(hosts=served), virtual_service(hosts=hosts)))
    found = {item["match"]["routeConfiguration"]["vhost"]["domainName"] for item in patches(made, "route")}
    assert found == expected


def test_a_delegates_rule_has_both_names_at_the_gateway_of_the_one_that_delegates() -> None:
    root = virtual_service(BETA, {"name": "all", "delegate": {"name": "split"}}, name="root")
    child = virtual_service(SPLIT, name="split", hosts=(), gateways=())
    made = rendered((*USUAL[:3], root, child), placed(None, ref(name="split")))
    assert not made.refusals
    assert patches(made, "route")[0]["match"]["routeConfiguration"]["vhost"]["route"]["name"] == "all-v1"


def test_callers_sidecars_match_host_and_port_and_hardly_ask_after_the_server() -> None:
    mesh = virtual_service(hosts=["llm-inference"], gateways=())
    objects = (service(ports=(8000, 9000)), *USUAL[1:3], mesh)
    made = rendered(objects, placed(callers=Callers(("web", "llm"))))
    assert not made.refusals
    assert {item.scope.namespace for item in made.filters} == {"llm", "web"}
    found = {json.dumps(item["match"]["routeConfiguration"]["vhost"]["name"]) for item in patches(made, "route")}
    assert found == {f'"{HOST}:8000"'}, "the other port leads to other clusters"
    once = patches(made, "gateway")
    assert {item["match"]["context"] for item in once} == {"SIDECAR_OUTBOUND"}
    ports = {item["match"]["listener"]["portNumber"] for item in once if item["applyTo"] != "CLUSTER"}
    assert ports == {8000}
    server = once[0]["patch"]["value"]
    assert server["health_checks"][0]["no_traffic_interval"] == "60s"


def test_two_experiments_share_one_patch_in_the_order_in_which_they_match() -> None:
    wide = placed(experiment("wide", match={"path_prefix": "/"}), created="2026-01-01T00:00:00Z")
    narrow = placed(experiment("narrow", match={"path_prefix": "/v1/chat"}), created="2026-02-01T00:00:00Z")
    made = rendered(USUAL, wide, narrow)
    routes = [item for item in made.filters if item.kind == "route"]
    assert [item.experiments for item in routes] == [("llm/narrow", "llm/wide")]
    assert len(variants(entries(made))) == 4
    assert sum(entry["weight"] for entry in entries(made)) == POSITIONS
    asks = patches(made, "route")[1]["patch"]["value"]["typed_per_filter_config"]["abmesh.ext_proc"]
    said = asks["overrides"]["grpc_initial_metadata"]
    assert said == [{"key": "x-abmesh-experiments", "value": "llm/narrow,llm/wide"}]


def test_events_of_one_host_are_together_and_come_before_its_routes() -> None:
    one, two = ref(), ref(rule="v2")
    rules = (SPLIT, SPLIT | {"name": "v2"})
    objects = (*USUAL[:3], virtual_service(*rules))
    wanted = [placed(experiment(name, events=["click"]), place) for name, place in (("one", one), ("two", two))]
    made = rendered(objects, *wanted, event_origins=("https://app.example",))
    found = patches(made, "events")
    assert {item["patch"]["operation"] for item in found} == {"INSERT_FIRST"}
    names = [item["patch"]["value"]["name"] for item in found]
    # The last patch ends first: preflights, then what is counted, then what no Experiment declares.
    assert names[0] == "/_ab/events/unknown"
    assert names.index("llm/two/events/click") < names.index("llm/one/events/click")
    assert names[-1].endswith("/preflight")
    assert "/_ab/events/preflight" in names


def test_without_events_nothing_is_inserted() -> None:
    assert not patches(rendered(), "events")


SOME = examples(15)
NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,9}[a-z0-9]", fullmatch=True), min_size=1, max_size=4, unique=True)


@SOME
@given(
    names=NAMES,
    weights=st.lists(st.integers(0, 100), min_size=1, max_size=4).filter(any),
    keeps=st.sampled_from([None, *Unassigned]),
    seed=st.randoms(use_true_random=False),
)
def test_weights_fill_all_positions_and_the_order_of_reading_does_not_matter(
    names: list[str], weights: list[int], keeps: Unassigned | None, seed: random.Random
) -> None:
    subset = [f"s{place}" for place in range(len(weights))]
    split = {"name": "v1", "route": [to(name, weight) for name, weight in zip(subset, weights, strict=True)]}
    objects = [service(), subsets("model-a", "model-b", *subset), gateway(), virtual_service(BETA, split)]
    wanted = [placed(experiment(name), unassigned=keeps) for name in names]
    made = rendered(objects, *wanted)
    assert not refusals(made)
    assert sum(entry["weight"] for entry in entries(made)) == POSITIONS
    assert all(entry["weight"] > 0 for entry in entries(made))
    assert len(variants(entries(made))) == 2 * len(names)
    seed.shuffle(objects)
    seed.shuffle(wanted)
    assert rendered(objects, *wanted) == made


@SOME
@given(st.integers(0, 100), st.integers(0, 100))
def test_weights_of_variants_change_nothing(one: int, other: int) -> None:
    def at(weight: int) -> Placed:
        item = experiment()
        changed = [
            variant.model_copy(update={"weight": points})
            for variant, points in zip(item.variants, (10_000 - weight * 100, weight * 100), strict=True)
        ]
        return replace(placed(), experiment=item.model_copy(update={"variants": tuple(changed)}))

    assert rendered(USUAL, at(one)).filters == rendered(USUAL, at(other)).filters
