from datetime import timedelta
from typing import Any

import pytest
from betterproto2 import Casing
from hypothesis import given

from abmesh.experiment.model import Document
from abmesh.mesh.events import event_routes
from abmesh.mesh.routes import UNMATCHED, route_configuration, unassigned_route_name, variant_route_name
from tests.abmesh.mesh.documents import document, documents, experiment
from tests.examples import examples


def routes(of: Document) -> list[dict[str, Any]]:
    host = route_configuration(of).to_dict(casing=Casing.SNAKE)["virtual_hosts"][0]
    assert host["domains"] == ["*"]
    found: list[dict[str, Any]] = host["routes"]
    events = [route.to_dict(casing=Casing.SNAKE) for route in event_routes(of)]
    assert found[: len(events)] == events, "events come before all others; test_events.py looks at them"
    return found[len(events) :]


def test_assigned_requests_come_first_then_each_experiments_control_then_the_rest() -> None:
    found = routes(document(experiment("one", ("a", "b")), experiment("two", ("c", "a", "b")), default_cluster="c"))
    assert [(route["name"], route["route"]["cluster"]) for route in found] == [
        ("one/v0", "a"),
        ("one/v1", "b"),
        ("two/v0", "c"),
        ("two/v1", "a"),
        ("two/v2", "b"),
        ("one/unassigned", "a"),
        ("two/unassigned", "c"),
        ("unmatched", "c"),
    ]


@examples(5)
@given(documents())
def test_every_variant_has_a_route_of_its_own_name_and_the_last_route_takes_everything(of: Document) -> None:
    found = routes(of)
    expected = [variant_route_name(item.name, variant.name) for item in of.experiments for variant in item.variants]
    expected += [unassigned_route_name(item.name) for item in of.experiments] + [UNMATCHED]
    assert [route["name"] for route in found if "/native/" not in route["name"]] == expected
    assert found[-1]["match"] == {"prefix": "/"}


def test_assigned_requests_are_matched_only_on_the_servers_headers() -> None:
    found = routes(document(experiment(match={"path_prefix": "/v1/", "host": "h", "headers": {"x-tier": "1"}})))
    assert found[1]["match"] == {
        "prefix": "/",
        "headers": [
            {"name": "x-ab-experiment", "string_match": {"exact": "chat"}},
            {"name": "x-model-version", "string_match": {"exact": "v1"}},
        ],
    }


def test_unassigned_requests_are_matched_as_in_the_document_and_lose_assignment_headers() -> None:
    found = routes(document(experiment(match={"path_prefix": "/v1/", "host": "a.b", "headers": {"x-tier": "1"}})))
    assert found[2]["match"] == {
        "prefix": "/v1/",
        "headers": [
            {"name": ":authority", "string_match": {"safe_regex": {"regex": r"(?i)a\.b(:[0-9]+)?"}}},
            {"name": "x-tier", "string_match": {"exact": "1"}},
        ],
    }
    gone = {"x-model-version", *(f"x-ab-{name}" for name in ("experiment", "slice", "group", "segment"))}
    gone |= {f"x-ab-{name}" for name in ("issued", "continued", "event", "value")}
    assert set(found[2]["request_headers_to_remove"]) == gone


@pytest.mark.parametrize(
    ("timeout", "rendered", "idle"),
    [(None, "0s", None), ("250ms", "0.250s", None), ("5m", "300s", None), ("10m", "600s", "600s")],
)
def test_time_limits_are_the_variants_and_none_means_none(timeout: str | None, rendered: str, idle: str | None) -> None:
    """A time limit beyond the idle limit must not be cut short by it."""
    chat = experiment()
    chat["variants"][0]["timeout"] = timeout
    for route in (routes(document(chat))[0], routes(document(chat))[2]):
        action = route["route"]
        assert isinstance(action, dict)
        assert (action["timeout"], action.get("idle_timeout")) == (rendered, idle)


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
    rewritten = [route["route"].get("host_rewrite_literal") for route in found[:3]]
    assert rewritten == ["api.example.com", "models.internal", None]


def test_only_a_variants_own_route_names_the_variant_and_makes_evidence() -> None:
    """Whatever the server said of a request that took another route."""
    found = {route["name"]: route for route in routes(document(default_cluster="c"))}
    for name in ("v0", "v1"):
        route = found[f"chat/{name}"]
        assert route["metadata"] == {"filter_metadata": {"abmesh": {"experiment": "chat"}}}
        (stamp,) = route["response_headers_to_add"]
        assert stamp["header"] == {"key": "x-model-version", "value": name}
        assert stamp["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
    for name in ("chat/unassigned", "unmatched"):
        assert not {"metadata", "response_headers_to_add"} & set(found[name])
        assert found[name]["response_headers_to_remove"] == ["x-model-version"]


def test_every_answer_gets_the_cookie_of_a_new_identity() -> None:
    host = route_configuration(document()).virtual_hosts[0]
    added = {option.header.key: option.header.value for option in host.response_headers_to_add if option.header}
    assert added == {"set-cookie": "%DYNAMIC_METADATA(abmesh:set_cookie)%"}


def test_the_longest_time_limit_fits_into_envoys_milliseconds() -> None:
    chat = experiment()
    chat["variants"][0]["timeout"] = "3650d"
    assert routes(document(chat))[0]["route"]["timeout"] == f"{timedelta(days=3650) // timedelta(seconds=1)}s"
