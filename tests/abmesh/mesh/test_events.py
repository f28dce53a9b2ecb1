import json
from typing import Any

import pytest
from betterproto2 import Casing

from abmesh.experiment.model import Document
from abmesh.mesh.events import event_routes
from abmesh.mesh.refusals import DISAGREEMENT, REFUSALS
from tests.abmesh.mesh.documents import document, experiment


def routes(of: Document) -> list[dict[str, Any]]:
    return [route.to_dict(casing=Casing.SNAKE) for route in event_routes(of)]


def marks(route: dict[str, Any]) -> dict[str, str]:
    """The headers that the route sets on its requests."""
    settings = route.get("typed_per_filter_config", {}).get("abmesh.headers", {})
    mutations = settings.get("mutations", {}).get("request_mutations", ())
    return {mutation["append"]["header"]["key"]: mutation["append"]["header"]["value"] for mutation in mutations}


OF = document(
    experiment(
        "one", events=["click", "continuation"], unit=[{"cookie": "s"}], issue_cookie={"name": "s", "max_age": "1h"}
    ),
    experiment("two", clusters=("a", "b", "c"), events=["buy", "click"]),
)


def test_every_event_has_a_route_of_each_variant_and_then_those_that_say_why_it_does_not_count() -> None:
    """What counts by itself is no event that anybody may send."""
    click = ["one/events/click"] * 2 + ["two/events/click"] * 3 + ["/_ab/events/click/method"]
    buy = ["two/events/buy"] * 3 + ["/_ab/events/buy/method"]
    causes = [f"/_ab/events/refused/{code}" for code in REFUSALS]
    rest = [f"/_ab/events/{event}/{why}" for event in ("click", "buy") for why in ("refused", "unassigned")]
    assert [route["name"] for route in routes(OF)] == [*click, *buy, *causes, *rest, "/_ab/events/unknown"]


def test_what_does_not_count_says_why_in_one_word_and_one_sentence() -> None:
    refused = [route for route in routes(OF) if "/refused" in route["name"]]
    for route in refused:
        assert {"key": "content-type", "value": "application/json"} in [
            added["header"] for added in route["response_headers_to_add"]
        ]
        told = json.loads(route["direct_response"]["body"]["inline_string"])
        assert told.keys() == {"error", "message"}
        if told["error"] != DISAGREEMENT:
            assert {"name": "x-ab-reason", "string_match": {"exact": f"event_{told['error']}"}} in route["match"][
                "headers"
            ]
            assert told["message"] == REFUSALS[told["error"]]
    assert len(refused) == len(REFUSALS) + 2


def test_an_event_counts_as_the_server_decided_and_its_route_names_it() -> None:
    route = routes(OF)[3]
    assert route["match"] == {
        "path": "/_ab/events/click",
        "headers": [
            {"name": "x-ab-event", "string_match": {"exact": "click"}},
            {"name": "x-ab-experiment", "string_match": {"exact": "two"}},
            {"name": "x-model-version", "string_match": {"exact": "v1"}},
            {"name": ":method", "string_match": {"exact": "POST"}},
        ],
    }
    assert route["direct_response"] == {"status": 204}
    assert marks(route) == {"x-ab-counted": "click"}
    assert [added["header"] for added in route["response_headers_to_add"]] == [
        {"key": "x-model-version", "value": "v1"}
    ]


def test_what_does_not_count_is_marked_as_such() -> None:
    others = [route for route in routes(OF) if route["name"].startswith("/")]
    of_envoy = [route["direct_response"]["status"] for route in others if "direct_response" in route]
    assert of_envoy == [405, 405, *[400] * (len(REFUSALS) + 2)]
    nowhere = [route["route"] for route in others if "route" in route]
    assert nowhere == [
        {"cluster_header": "x-ab-nowhere"},  # 503 is Envoy's default
        {"cluster_header": "x-ab-nowhere"},
        {"cluster_header": "x-ab-nowhere", "cluster_not_found_response_code": "NOT_FOUND"},
    ]
    marked = [f"/_ab/events/refused/{code}" for code in REFUSALS]
    marked += [f"/_ab/events/{event}/{why}" for event in ("click", "buy") for why in ("refused", "unassigned")]
    assert [marks(route) for route in others if marks(route)] == [{"x-ab-unassigned": name} for name in marked]


def test_the_server_is_asked_only_about_an_event_that_may_count() -> None:
    """Envoy chooses the filters by the first route that a request meets, which must not be a direct response."""
    asking = [route for route in routes(OF) if "abmesh.ext_proc" in route.get("typed_per_filter_config", {})]
    assert [route["name"] for route in asking] == ["/_ab/events/click/unassigned", "/_ab/events/buy/unassigned"]
    assert all("abmesh.headers" in route["typed_per_filter_config"] for route in asking)
    assert not any("direct_response" in route for route in asking)


def test_without_any_event_the_path_is_still_reserved() -> None:
    assert [(route["name"], route["match"]) for route in routes(document())] == [
        ("/_ab/events/unknown", {"prefix": "/_ab/events/"})
    ]


@pytest.mark.parametrize("origins", [[], ["https://shop.example", "http://localhost:8080"]], ids=["none", "two"])
def test_only_pages_of_the_documents_origins_may_send_events(origins: list[str]) -> None:
    of = document(experiment(events=["click"]), event_origins=origins)
    for route in routes(of):
        policy = route.get("typed_per_filter_config", {}).get("abmesh.cors")
        if not origins:
            assert policy is None
            continue
        assert policy["allow_origin_string_match"] == [{"exact": origin} for origin in origins]
        assert (policy["allow_methods"], policy["allow_credentials"]) == ("POST", True)
    names = [route["name"] for route in routes(of)[:2]]
    assert (names == ["/_ab/events/click/preflight", "/_ab/events/preflight"]) == bool(origins)


def allowed(of: Document) -> dict[str, str]:
    """What a preflight allows, by the name of its route."""
    policies = {route["name"]: route["typed_per_filter_config"]["abmesh.cors"] for route in routes(of)}
    return {name: policy["allow_headers"] for name, policy in policies.items() if name.endswith("preflight")}


def test_a_page_may_send_what_its_event_is_assigned_by_and_nothing_else() -> None:
    of = document(
        experiment(
            "one",
            events=["click", "like"],
            unit=[{"header": "x-user-id"}, {"cookie": "s"}],
            segments={"header": "x-who", "values": ["power"]},
            match={"headers": {"x-tier": "1", "host": "a"}},
            overrides=[{"header": {"x-group": "beta"}, "variant": "v1"}],
        ),
        experiment("two", events=["click"], unit=[{"header": "x-device"}]),
        experiment("three", events=["seen"], unit=[{"query": "id"}]),
        experiment("four", unit=[{"header": "x-other"}]),
        event_origins=["https://shop.example"],
    )
    assert allowed(of) == {
        "/_ab/events/click/preflight": "content-type,x-user-id,x-who,x-tier,x-group,x-device",
        "/_ab/events/like/preflight": "content-type,x-user-id,x-who,x-tier,x-group",
        "/_ab/events/preflight": "content-type",
    }


def test_a_preflight_names_no_more_headers_than_browsers_and_envoy_take() -> None:
    many = [
        experiment(f"e{number}", events=["click"], unit=[{"header": f"x-{number}-{place}"} for place in range(10)])
        for number in range(30)
    ]
    of = document(*many, event_origins=["https://shop.example"])
    assert allowed(of)["/_ab/events/click/preflight"].count(",") == 99
