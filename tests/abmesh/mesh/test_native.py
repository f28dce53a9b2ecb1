"""What is rendered for the native lane; that it agrees with the server is looked at in test_native_agrees.py."""

from __future__ import annotations

from typing import Any

import pytest
from betterproto2 import Casing
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.bucketing import Cell
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.filters import ANSWERS, EXT_PROC, HEADERS
from abmesh.mesh.identity_notes import identity_notes
from abmesh.mesh.lane import notes, obstacle
from abmesh.mesh.listener import listener
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.routes import RoutesRenderer
from tests.abmesh.mesh.documents import document, experiment, render_routes, values_of
from tests.examples import examples

COOKIE = {"name": "sid", "max_age": "1h"}
UNIT = [{"header": "x-user-id"}, {"cookie": "sid"}]


def native(**changes: Any) -> dict[str, Any]:
    return experiment(**({"lane": "native", "unit": UNIT} | changes))


def routes(*experiments: dict[str, Any], **changes: Any) -> dict[str, dict[str, Any]]:
    """Rendered routes by name, without those of events."""
    (resource,) = render_routes(document(*experiments, **changes))["resources"]
    found = {route["name"]: route for route in resource["virtual_hosts"][0]["routes"]}
    assert next(iter(found)) == "/_ab/events/unknown"
    return {name: route for name, route in found.items() if not name.startswith("/")}


def headers_of(of: dict[str, Any]) -> dict[str, str]:
    return {option["header"]["key"]: option["header"]["value"] for option in of["request_headers_to_add"]}


def limit(entry: dict[str, Any]) -> str | None:
    """The time limit that the filter sets for an entry, in milliseconds."""
    filters = entry.get("typed_per_filter_config", {})
    for mutation in filters.get(HEADERS, {}).get("mutations", {}).get("request_mutations", ()):
        assert mutation["append"]["header"]["key"] == "x-envoy-upstream-rq-timeout-ms"
        return str(mutation["append"]["header"]["value"])
    return None


def test_native_routes_come_just_before_their_experiments_control() -> None:
    overrides = [{"header": {"x-group": "beta"}, "variant": "v1"}]
    assert list(routes(experiment("one"), native(name="two", overrides=overrides))) == [
        "one",
        "two/native/override/0",
        "two/native/header/x-user-id",
        "two/native/cookie/sid",
        "two",
        "unmatched",
    ]


weights = st.lists(st.integers(0, 10_000), min_size=1, max_size=4).map(
    lambda cuts: [b - a for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 10_000], strict=True)]
)


@examples(8)
@given(weights, weights, st.integers(10, 100))
def test_the_weighted_clusters_are_the_places_of_the_buckets_in_order(
    now: list[int], before: list[int], slices: int
) -> None:
    """Also where ranges were fitted to new weights, and lie about in pieces."""
    names = [f"v{number}" for number in range(max(len(now), len(before)))]
    starts = [sum(before[:number]) for number in range(len(names) + 1)]
    ranges = {
        name: [[start, stop]] for name, start, stop in zip(names, starts, starts[1:], strict=False) if start < stop
    }
    variants = [
        {"name": name, "cluster": "abc"[number % 3], "weight": weight / 100, "control": number == 0}
        for number, (name, weight) in enumerate(zip(names, [*now, *[0] * len(names)], strict=False))
    ]
    chat = native(variants=variants, slices=slices, ranges=ranges)
    entries = routes(chat)["chat/native/header/x-user-id"]["route"]["weighted_clusters"]["clusters"]
    spread = []
    for entry in entries:
        headers = headers_of(entry)
        cell = Cell(headers["x-model-version"], int(headers["x-ab-slice"]), int(headers["x-ab-group"]))
        spread += [cell] * entry["weight"]
        assert entry["name"] == "abc"[int(cell.variant[1:]) % 3]
    assert tuple(spread) == document(chat).experiments[0].cells


def test_a_native_route_has_what_an_assigned_one_has_and_does_not_ask_the_server() -> None:
    found = routes(native(overrides=[{"header": {"x-group": "beta"}, "variant": "v1"}]))
    assigned = found["chat"]["route"]["weighted_clusters"]["clusters"][1]
    for name in ("chat/native/override/0", "chat/native/header/x-user-id", "chat/native/cookie/sid"):
        own = found[name]["typed_per_filter_config"]
        assert own == {ANSWERS: assigned["typed_per_filter_config"][ANSWERS]}
        assert headers_of(found[name])["x-ab-route"] == headers_of(assigned)["x-ab-route"] == "chat"
    override = found["chat/native/override/0"]
    assert headers_of(override) == {"x-ab-route": "chat", "x-ab-experiment": "chat", "x-model-version": "v1"}
    variants = {
        entry["response_headers_to_add"][0]["header"]["value"]: entry["response_headers_to_add"]
        for entry in found["chat"]["route"]["weighted_clusters"]["clusters"]
        if "response_headers_to_add" in entry
    }
    assert override["response_headers_to_add"] == variants["v1"]
    assert EXT_PROC in found["chat"]["typed_per_filter_config"]


def test_each_variants_time_limit_and_host_are_its_own() -> None:
    chat = native(clusters=("a", "b"))
    chat["variants"][0] |= {"weight": 50, "timeout": "1.5s"}
    chat["variants"][1] |= {"weight": 50}
    clusters = {
        "a": {"host": "models.example.com", "port": 443, "tls": True},
        "b": {"host": "127.0.0.1", "port": 80},
    }
    action = routes(chat, clusters=clusters)["chat/native/header/x-user-id"]["route"]
    assert (action["timeout"], action.get("idle_timeout")) == ("0s", None)
    first, last = action["weighted_clusters"]["clusters"][0], action["weighted_clusters"]["clusters"][-1]
    assert (first["host_rewrite_literal"], last.get("host_rewrite_literal")) == ("models.example.com", None)
    assert (limit(first), limit(last)) == ("1500", None)
    assert "x-envoy-upstream-rq-timeout-ms" not in headers_of(first), "added too late for the router"


def test_a_time_limit_that_all_variants_share_is_the_routes_and_needs_no_filter() -> None:
    chat = native()
    for variant in chat["variants"]:
        variant["timeout"] = "1.5s"
    action = routes(chat)["chat/native/header/x-user-id"]["route"]
    assert action["timeout"] == "1.500s"
    assert {limit(entry) for entry in action["weighted_clusters"]["clusters"]} == {None}


def test_a_segment_is_one_of_those_declared_or_other() -> None:
    overrides = [{"header": {"x-group": "beta"}, "variant": "v1"}]
    found = routes(native(segments={"header": "x-plan", "values": ["power", "c-1"]}, overrides=overrides))
    for name in ("override/0", "header/x-user-id", "cookie/sid"):
        declared, others = found[f"chat/native/{name}/segment"], found[f"chat/native/{name}"]
        condition = declared["match"]["headers"][-1]
        assert (condition["name"], condition["string_match"]["safe_regex"]["regex"]) == ("x-plan", r"power|c\-1")
        assert declared["match"]["headers"][:-1] == others["match"]["headers"]
        assert headers_of(declared)["x-ab-segment"] == "%REQ(x-plan)%"
        assert headers_of(others)["x-ab-segment"] == "other"
        assert list(found).index(declared["name"]) == list(found).index(others["name"]) - 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"match": {"headers": {"Host": "a"}}}, "host"),
        ({"unit": [{"header": "host"}]}, "host"),
        ({"overrides": [{"header": {"host": "a"}, "variant": "v1"}]}, "host"),
        ({"segments": {"header": "host", "values": ["a"]}}, "host"),
        ({"segments": {"header": "x%y", "values": ["a"]}}, "x%y"),
        ({"unit": [{"cookie": "sid"}], "issue_cookie": COOKIE, "events": ["continuation"]}, "continuation"),
        ({"unit": [{"cookie": "sid"}], "issue_cookie": {**COOKIE, "keys": [{"env": "KEY"}]}}, "cannot verify"),
    ],
)
def test_what_the_lane_cannot_express_is_left_to_the_server_with_a_reason(changes: dict[str, Any], why: str) -> None:
    chat = native(**changes)
    of = document(chat).experiments[0]
    assert why in obstacle(of)
    (note,) = notes(of)
    assert note.startswith("lane native: the server is asked about every request: ")
    assert why in note
    assert not [name for name in routes(chat) if "/native/" in name]
    assert "layered_runtime" not in render_bootstrap(document(chat), RenderOptions())


def test_no_variants_long_time_limit_is_cut_short_by_the_idle_limit_that_they_share() -> None:
    chat = native()
    chat["variants"][1]["timeout"] = "10m"
    assert routes(chat)["chat/native/header/x-user-id"]["route"]["idle_timeout"] == "600s"


def test_continuation_leaves_only_the_issued_cookie_to_the_server_with_a_note() -> None:
    chat = native(issue_cookie=COOKIE, events=["continuation"])
    assert [name for name in routes(chat) if "/native/" in name] == ["chat/native/header/x-user-id"]
    weights, first, rest = notes(document(chat).experiments[0])
    assert "only through a routes file" in weights
    assert "cookie sid: continuation" in first
    assert "requests without a unit" in rest


def test_envoy_takes_no_identity_from_a_cookie_that_it_cannot_verify() -> None:
    chat = native(issue_cookie={**COOKIE, "keys": [{"env": "KEY"}]})
    assert [name for name in routes(chat) if "/native/" in name] == ["chat/native/header/x-user-id"]
    _, first, _ = notes(document(chat).experiments[0])
    assert "cookie sid: Envoy cannot verify" in first


def test_notes_say_what_the_protections_of_an_identity_leave_open() -> None:
    def said(**changes: Any) -> list[str]:
        return list(identity_notes(document(experiment(**changes)).experiments[0]))

    keyed = {**COOKIE, "keys": [{"env": "KEY"}]}
    assert said() == said(unit=[{"cookie": "sid"}], issue_cookie=keyed) == []
    (note,) = said(unit=[{"header": "x-user-id"}, {"cookie": "sid"}], issue_cookie=keyed)
    assert "header x-user-id" in note
    assert "cookie sid," not in note
    assert len(said(secret_salt={"env": "SALT"})) == 1
    assert "Envoy's configuration holds the salt" in said(secret_salt={"env": "SALT"}, lane="native")[1]


def test_only_an_envoy_that_may_need_them_gets_the_native_lanes_settings() -> None:
    def parts(options: RenderOptions, *experiments: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        of = document(*experiments)
        rendered = listener(of, options).to_dict(casing=Casing.SNAKE)
        manager = rendered["filter_chains"][0]["filters"][0]["typed_config"]
        return "layered_runtime" in render_bootstrap(of, options), manager

    assert parts(RenderOptions(), experiment())[0] is False
    assert parts(RenderOptions(), native())[0] is True
    limits, manager = parts(RenderOptions(routes_file="/run/abmesh/routes.json"), experiment())
    assert limits is True, "the file may hold native routes later"
    assert "route_config" not in manager
    assert manager["rds"] == {
        "config_source": {
            "path_config_source": {
                "path": "/run/abmesh/routes.json",
                "watched_directory": {"path": "/run/abmesh"},
            }
        },
        "route_config_name": "abmesh",
    }


def test_the_file_and_the_bootstrap_hold_the_same_routes() -> None:
    of = document(native())
    (resource,) = render_routes(of, "abc")["resources"]
    (static,) = (found for found in values_of(render_bootstrap(of, RenderOptions(warmup="")), "route_config"))
    assert {key: resource[key] for key in static} == static
    assert resource["validate_clusters"] is True, "or a variant of an unknown cluster would get 503"
    assert render_routes(of, "abc")["version_info"] == "abc"


@examples(4)
@given(st.lists(weights.filter(lambda found: len(found) == 2), min_size=1, max_size=4), st.booleans())
def test_successive_documents_are_rendered_as_each_alone(steps: list[list[int]], longer: bool) -> None:
    renderer = RoutesRenderer()
    for number, step in enumerate(steps):
        chat = native()
        for variant, weight in zip(chat["variants"], step, strict=True):
            variant["weight"] = weight / 100
        if longer and number % 2:
            chat["variants"][0]["timeout"] = "30s"
        assert renderer.render(document(chat), str(number)) == render_routes(document(chat), str(number))
