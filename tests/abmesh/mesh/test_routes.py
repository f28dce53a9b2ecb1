from datetime import timedelta
from typing import Any

import pytest
from betterproto2 import Casing
from hypothesis import given

from abmesh.experiment.model import Document
from abmesh.experiment.places import POSITIONS, place_of
from abmesh.mesh.events import event_routes
from abmesh.mesh.routes import UNMATCHED, route_configuration
from tests.abmesh.mesh.documents import document, documents, experiment
from tests.examples import examples


def routes(of: Document) -> list[dict[str, Any]]:
    host = route_configuration(of).to_dict(casing=Casing.SNAKE)["virtual_hosts"][0]
    assert host["domains"] == ["*"]
    found: list[dict[str, Any]] = host["routes"]
    events = [route.to_dict(casing=Casing.SNAKE) for route in event_routes(of)]
    assert found[: len(events)] == events, "events come before all others; test_events.py looks at them"
    return found[len(events) :]


def entries(route: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = route["route"]["weighted_clusters"]["clusters"]
    return found


def variants(route: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is at the variants' places, by the variant that is stamped there."""
    return {
        stamp["header"]["value"]: entry
        for entry in entries(route)
        for stamp in entry.get("response_headers_to_add", ())
    }


def gap(route: dict[str, Any]) -> dict[str, Any]:
    """What is at all other places, without its weight."""
    others = [entry for entry in entries(route) if "response_headers_to_add" not in entry]
    without = [{key: value for key, value in entry.items() if key != "weight"} for entry in others]
    assert all(entry == without[0] for entry in without)
    return without[0]


def at(route: dict[str, Any], number: int) -> dict[str, Any]:
    """What Envoy picks for a number in the header of the place."""
    number %= sum(entry["weight"] for entry in entries(route))
    for entry in entries(route):
        number -= entry["weight"]
        if number < 0:
            return entry
    raise AssertionError("unreachable")


def test_each_experiment_has_one_route_in_the_documents_order_and_then_comes_the_rest() -> None:
    found = routes(document(experiment("one", ("a", "b")), experiment("two", ("c", "a", "b")), default_cluster="c"))
    assert [route["name"] for route in found] == ["one", "two", "unmatched"]
    assert {name: entry["name"] for name, entry in variants(found[1]).items()} == {"v0": "c", "v1": "a", "v2": "b"}
    assert (gap(found[0])["name"], gap(found[1])["name"]) == ("a", "c"), "the control"
    assert found[2]["route"]["cluster"] == "c"


@examples(5)
@given(documents())
def test_every_variant_has_its_place_on_its_experiments_route_and_the_last_route_takes_everything(of: Document) -> None:
    found = {route["name"]: route for route in routes(of) if "/native/" not in route["name"]}
    assert list(found) == [*(item.name for item in of.experiments), UNMATCHED]
    assert list(found.values())[-1]["match"] == {"prefix": "/"}
    for item in of.experiments:
        route = found[item.name]
        assert sum(entry["weight"] for entry in entries(route)) == POSITIONS
        assert route["route"]["weighted_clusters"]["header_name"] == "x-ab-place"
        for variant in item.variants:
            entry = at(route, place_of(item.name, variant.name))
            assert entry["name"] == variant.cluster
            assert entry["response_headers_to_add"][0]["header"]["value"] == variant.name
            assert at(route, place_of("another", variant.name))["name"] == item.control.cluster
        for number in (0, 1, 4_289_999_999, POSITIONS - 1, POSITIONS):
            assert "response_headers_to_add" not in at(route, number)


def test_requests_are_matched_as_in_the_document_and_ask_the_server() -> None:
    found = routes(document(experiment(match={"path_prefix": "/v1/", "host": "a.b", "headers": {"x-tier": "1"}})))
    assert found[0]["match"] == {
        "prefix": "/v1/",
        "headers": [
            {"name": ":authority", "string_match": {"safe_regex": {"regex": r"(?i)a\.b(:[0-9]*)?"}}},
            {"name": "x-tier", "string_match": {"exact": "1"}},
        ],
    }
    filters = found[0]["typed_per_filter_config"]
    assert filters["abmesh.ext_proc"]["overrides"] == {}
    assert filters["abmesh.answers"]["disabled"] is True, "in the chain, and silent unless a variant's place wants it"
    assert "typed_per_filter_config" not in found[1]


def test_requests_without_a_place_lose_assignment_headers_and_are_marked() -> None:
    other = gap(routes(document())[0])
    gone = {"x-model-version", *(f"x-ab-{name}" for name in ("experiment", "slice", "group", "segment", "place"))}
    assert set(other["request_headers_to_remove"]) == gone | {
        f"x-ab-{name}" for name in ("issued", "continued", "event", "value")
    }
    (mark,) = other["request_headers_to_add"]
    assert mark["header"] == {"key": "x-ab-unassigned", "value": "chat"}


@pytest.mark.parametrize(
    ("timeout", "rendered", "idle"),
    [(None, "0s", None), ("250ms", "0.250s", None), ("5m", "300s", None), ("10m", "600s", "600s")],
)
def test_a_time_limit_that_all_share_is_the_routes(timeout: str | None, rendered: str, idle: str | None) -> None:
    """A time limit beyond the idle limit must not be cut short by it."""
    chat = experiment()
    for variant in chat["variants"]:
        variant["timeout"] = timeout
    action = routes(document(chat))[0]["route"]
    assert (action["timeout"], action.get("idle_timeout")) == (rendered, idle)
    assert "typed_per_filter_config" not in gap(routes(document(chat))[0])


def test_of_different_time_limits_the_server_tells_each_and_a_filter_the_unassigned_controls() -> None:
    chat = experiment()
    chat["variants"][0]["timeout"] = "10m"
    route = routes(document(chat))[0]
    assert (route["route"]["timeout"], route["route"]["idle_timeout"]) == ("0s", "600s")
    settings = gap(route)["typed_per_filter_config"]["abmesh.headers"]
    (mutation,) = settings["mutations"]["request_mutations"]
    assert mutation["append"]["header"] == {"key": "x-envoy-upstream-rq-timeout-ms", "value": "600000"}
    assert all("abmesh.headers" not in entry["typed_per_filter_config"] for entry in variants(route).values())


def test_requests_that_match_nothing_get_404_or_the_default_cluster_without_a_time_limit() -> None:
    assert routes(document())[-1]["direct_response"] == {"status": 404}
    assert routes(document(default_cluster="b"))[-1]["route"] == {"cluster": "b", "timeout": "0s"}


def test_a_tls_server_is_asked_for_by_the_name_that_its_certificate_has() -> None:
    clusters = {
        "a": {"host": "api.example.com", "port": 443, "tls": True},
        "b": {"host": "10.0.0.1", "port": 443, "tls": {"sni": "models.internal"}},
        "c": {"host": "10.0.0.2", "port": 443, "tls": True},
    }
    found = routes(document(experiment(clusters=("a", "b", "c")), clusters=clusters))
    rewritten = {name: entry.get("host_rewrite_literal") for name, entry in variants(found[0]).items()}
    assert rewritten == {"v0": "api.example.com", "v1": "models.internal", "v2": None}
    assert gap(found[0])["host_rewrite_literal"] == "api.example.com"


def test_only_a_variants_own_place_stamps_its_name_and_makes_evidence() -> None:
    """Whatever the server said of a request that went elsewhere."""
    found = routes(document(default_cluster="c"))
    for name, entry in variants(found[0]).items():
        assert [option["header"] for option in entry["request_headers_to_add"]] == [
            {"key": "x-ab-route", "value": "chat"}
        ]
        assert entry["request_headers_to_remove"] == ["x-ab-place"]
        (stamp,) = entry["response_headers_to_add"]
        assert stamp["header"] == {"key": "x-model-version", "value": name}
        assert stamp["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
    for other in (gap(found[0]), found[1]):
        assert "response_headers_to_add" not in other
        assert other["response_headers_to_remove"] == ["x-model-version"]


def test_every_answer_gets_the_cookie_of_a_new_identity() -> None:
    (added,) = routes(document())[0]["response_headers_to_add"]
    assert added == {"header": {"key": "set-cookie", "value": "%DYNAMIC_METADATA(abmesh:set_cookie)%"}}


def test_the_longest_time_limit_fits_into_envoys_milliseconds() -> None:
    chat = experiment()
    for variant in chat["variants"]:
        variant["timeout"] = "3650d"
    assert routes(document(chat))[0]["route"]["timeout"] == f"{timedelta(days=3650) // timedelta(seconds=1)}s"
