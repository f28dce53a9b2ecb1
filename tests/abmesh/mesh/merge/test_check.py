"""Routes are found by name, and those that abmesh cannot take over are refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from abmesh.experiment.errors import RenderError
from abmesh.experiment.model import Document
from abmesh.mesh.merge import check
from abmesh.mesh.merge.find import Found, Names, find
from abmesh.mesh.merge.tree import compose
from abmesh.mesh.yaml_text import to_yaml
from tests.abmesh.mesh.documents import document, experiment

MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
CHAT = {"name": "llm/chat", "match": {"prefix": "/v1/"}, "route": {"cluster": "a"}}


def own(*routes: Any, host: Any = None, manager: Any = None, **listener: Any) -> str:
    """An operator's configuration."""
    at = {"name": "llm", "domains": ["*"], "routes": list(routes) or [CHAT]} | (host or {})
    config = {"@type": MANAGER, "stat_prefix": "in", "route_config": {"virtual_hosts": [at]}} | (manager or {})
    chains = [{"filters": [{"name": "tls_inspector_like"}, {"name": "hcm", "typed_config": config}]}]
    return to_yaml({"static_resources": {"listeners": [{"name": "edge", "filter_chains": chains} | listener]}})


def found(*routes: Any, route: str = "llm/chat", **more: Any) -> Found:
    return find(compose(own(*routes, **more), "own.yaml"), Names("own.yaml", "edge", "llm", route))


def chat(**changes: Any) -> Document:
    return document(experiment("chat", match={"path_prefix": "/v1/"}) | changes)


def test_a_route_is_found_by_three_names() -> None:
    other = {"name": "other", "match": {"prefix": "/"}, "route": {"cluster": "b"}}
    it = found(other, CHAT)
    assert (it.at.listener, it.place) == ("edge", 1)
    text = own(CHAT).replace("route_config", "routeConfig").replace("virtual_hosts", "virtualHosts")
    assert find(compose(text, ""), Names("own.yaml")).place == 0, "one of each needs no name"


@pytest.mark.parametrize(
    ("names", "text", "message"),
    [
        (("x", "llm", "llm/chat"), own(), "no listener named 'x'; there is: 'edge'"),
        (("edge", "x", "llm/chat"), own(), "no virtual host named 'x'; there is: 'llm'"),
        (("edge", "llm", "x"), own(), "no route named 'x'; there is: 'llm/chat'"),
        (("edge", "llm", "x"), own({"match": {"prefix": "/"}}), "no route named 'x'; there is: none with a name"),
        (("edge", "llm", "llm/chat"), own(CHAT, CHAT), "2 routes are named 'llm/chat'"),
        (
            ("edge", "llm", ""),
            own(CHAT, CHAT | {"name": "b"}),
            "2 routes; choose one with --route; there is: 'llm/chat', 'b'",
        ),
        (("edge", "llm", "llm/chat"), own(manager={"rds": {"route_config_name": "r"}}), "a route discovery service"),
        (("edge", "llm", "llm/chat"), own(host={"matcher": {}}), "has a matcher instead of a list of routes"),
        (("edge", "llm", "llm/chat"), own(filter_chains=[]), "has no HTTP connection manager"),
    ],
)
def test_what_is_not_found_says_what_there_is(names: tuple[str, str, str], text: str, message: str) -> None:
    with pytest.raises(RenderError, match=message):
        find(compose(text, "own.yaml"), Names("own.yaml", *names))


@pytest.mark.parametrize(
    ("route", "field", "shares"),
    [
        ({"route": {"cluster": "a", "timeout": "30s"}}, "cluster", (("a", 1),)),
        (
            {"route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 90}, {"name": "b", "weight": 10}]}}},
            "weighted_clusters",
            (("a", 90), ("b", 10)),
        ),
    ],
)
def test_the_destination_of_a_route(route: Any, field: str, shares: Any) -> None:
    assert check.destination("own.yaml", found(CHAT | route)) == (field, check.Destination(shares))


SPLIT = [{"name": "a", "weight": 90}, {"name": "b", "weight": 10}]


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({"redirect": {"path_redirect": "/x"}}, "it redirects"),
        ({"direct_response": {"status": 404}}, "it answers itself"),
        ({"route": {"cluster_header": "x"}}, "a header chooses its cluster"),
        ({"route": {"cluster_specifier_plugin": "x"}}, "a plugin chooses its cluster"),
        ({"route": {"cluster": "a", "internal_redirect_policy": {"max_internal_redirects": 1}}}, "counted twice"),
        ({"route": {"cluster": "a", "metadata_match": {"filter_metadata": {"envoy.lb": {"v": "1"}}}}}, "subset"),
        ({"route": {"weighted_clusters": {"clusters": SPLIT, "header_name": "x"}}}, "a header_name of their own"),
        ({"route": {"weighted_clusters": {"clusters": SPLIT, "use_hash_policy": True}}}, "a use_hash_policy of their"),
        (
            {"route": {"weighted_clusters": {"clusters": [SPLIT[0] | {"request_headers_to_remove": ["x"]}, SPLIT[1]]}}},
            "its destination 'a' has request_headers_to_remove of its own, which would be lost",
        ),
        ({"route": {"timeout": "1s"}}, "it names no cluster"),
        ({"route": {"weighted_clusters": {"clusters": [SPLIT[0] | {"weight": "0x3C"}]}}}, "weight '0x3C' is not a"),
        ({"route": {"cluster": "a"}, "match": {"connect_matcher": {"x": 1}}}, "CONNECT"),
    ],
)
def test_routes_that_cannot_be_taken_over(route: Any, message: str) -> None:
    kept = {key: value for key, value in CHAT.items() if key != "route"}
    with pytest.raises(RenderError, match=rf"own\.yaml:\d+: abmesh cannot take over the route 'llm/chat': .*{message}"):
        check.destination("own.yaml", found(kept | route))


def test_a_host_that_a_variant_needs_and_the_route_rewrites() -> None:
    clusters = {"a": {"host": "a.example", "port": 443, "tls": True}, "b": {"host": "127.0.0.1", "port": 1}}
    wanted = document(experiment("chat"), clusters=clusters)
    rewriting = found(CHAT | {"route": {"cluster": "a", "host_rewrite_literal": "x.example"}})
    with pytest.raises(RenderError, match="its host_rewrite_literal would win over the host that cluster 'a' needs"):
        check.check_experiments("own.yaml", rewriting, wanted, wanted.experiments)
    check.check_experiments("own.yaml", found(), wanted, wanted.experiments)


def test_a_cookie_that_the_route_sets_too() -> None:
    issuing = chat(unit=[{"cookie": "sid"}], issue_cookie={"name": "sid", "max_age": "1h"})
    policy = [{"cookie": {"name": "sid", "ttl": "0s"}}]
    with pytest.raises(RenderError, match="it sets the cookie 'sid' itself"):
        check.check_experiments(
            "own.yaml", found(CHAT | {"route": {"cluster": "a", "hash_policy": policy}}), issuing, issuing.experiments
        )


def before(**match: Any) -> Found:
    return found({"name": "first", "match": match, "route": {"cluster": "b"}}, CHAT)


@pytest.mark.parametrize(
    "match",
    [
        {"prefix": ""},
        {"prefix": "/"},
        {"prefix": "/v1/"},
        {"prefix": "/V1", "case_sensitive": False},
        {"path_separated_prefix": "/v1"},
        {"safe_regex": {"regex": ".*"}},
        {"safe_regex": {"regex": "^/v1/.*$"}},
    ],
)
def test_an_earlier_route_that_takes_everything_is_named(match: Any) -> None:
    with pytest.raises(RenderError, match="the route 'first' comes before 'llm/chat' and already takes every request"):
        check.check_order("own.yaml", before(**match), chat().experiments, events=True)


@pytest.mark.parametrize(
    "match", [{"prefix": "/v2/"}, {"path": "/v1/"}, {"prefix": "/", "headers": [{"name": "x", "present_match": True}]}]
)
def test_an_earlier_route_that_leaves_something_is_not_refused(match: Any) -> None:
    check.check_order("own.yaml", before(**match), chat().experiments, events=True)


@pytest.mark.parametrize(
    "match",
    [
        {"prefix": "/v1/models"},
        {"path": "/V1/models", "case_sensitive": False},
        {"prefix": "/", "headers": [{"name": "x-beta", "present_match": True}]},
        {"safe_regex": {"regex": "/v1/.+"}},
        {"safe_regex": {"regex": "/v[0-9]/.*"}},
        {"safe_regex": {"regex": "/a.*|/v1/.*"}},
        {"safe_regex": {"regex": "/v1/models?"}},
        {"path_match_policy": {"name": "template"}},
    ],
)
def test_an_earlier_route_that_takes_a_part_is_told(match: Any) -> None:
    (told,) = check.check_order("own.yaml", before(**match), chat().experiments, events=True)
    assert told.startswith("the route 'first' comes before 'llm/chat' and may take some of the requests")


@pytest.mark.parametrize(
    "match",
    [
        {"prefix": "/V1/models"},
        {"safe_regex": {"regex": "/v2/.*"}},
        {"connect_matcher": {}},
        {"prefix": "/", "headers": [{"name": "x-tier", "string_match": {"exact": "paid"}}]},
    ],
)
def test_an_earlier_route_that_takes_none_is_not_told(match: Any) -> None:
    free = chat(match={"path_prefix": "/v1/", "headers": {"x-tier": "free"}})
    assert check.check_order("own.yaml", before(**match), free.experiments, events=True) == []


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_a_route_without_a_name_could_not_be_counted(name: str) -> None:
    with pytest.raises(RenderError, match="its requests are counted by its name; give it one"):
        check.destination("own.yaml", found(CHAT | {"name": name}, route=name))


def test_a_route_below_the_events_path_would_be_hidden() -> None:
    theirs = {"match": {"prefix": "/_ab/events/theirs"}, "route": {"cluster": "b"}}
    with pytest.raises(RenderError, match="would hide the route without a name for prefix /_ab/events/theirs"):
        check.check_order("own.yaml", found(CHAT, theirs), chat().experiments, events=True)
    assert check.check_order("own.yaml", found(CHAT, theirs), chat().experiments, events=False) == []


@pytest.mark.parametrize(
    ("domains", "other", "refused"),
    [
        (["*"], ["api.example"], True),
        (["*"], ["*.example"], True),
        (["*"], ["api.*"], True),
        (["*.example"], ["api.*", "*"], False),
        (["*.example"], ["*i.example"], True),
        (["api.example:80"], ["*.example"], False),
        (["*"], ["web.example"], False),
    ],
)
def test_a_virtual_host_whose_domains_fit_better_is_named(domains: Any, other: Any, refused: bool) -> None:
    better = {"name": "better", "domains": other, "routes": []}
    wanted = chat(match={"path_prefix": "/v1/", "host": "API.example"})
    ours = {"name": "llm", "domains": domains, "routes": [CHAT]}
    it = found(manager={"route_config": {"virtual_hosts": [better, ours]}})
    assert check.reaches(it, wanted.experiments[0])
    if refused:
        with pytest.raises(RenderError, match="go to the virtual host 'better', whose domains fit better"):
            check.check_hosts("own.yaml", it, wanted.experiments)
    else:
        check.check_hosts("own.yaml", it, wanted.experiments)


@pytest.mark.parametrize(
    ("path", "match", "expected"),
    [
        ("/v1/", {"path_prefix": "/v1/"}, True),
        ("/v1/", {"path_prefix": "/"}, True),
        ("/v1/", {"path_prefix": "/v1/chat"}, True),
        ("/v1/", {"path_prefix": "/v2/"}, False),
        ("/v1/", {"path_prefix": "/v1/", "host": "api.example"}, True),
        ("/v1/", {"path_prefix": "/v1/", "host": "api.other"}, False),
        ("/v1/", {"path_prefix": "/v1/", "headers": {"x-tier": "free"}}, False),
        ("/v1/", {"path_prefix": "/v1/", "headers": {"x-tier": "paid"}}, True),
    ],
)
def test_which_experiments_a_route_can_serve(path: str, match: Any, expected: bool) -> None:
    conditions = [{"name": "x-tier", "string_match": {"exact": "paid"}}]
    route = CHAT | {"match": {"prefix": path, "headers": conditions}}
    it = found(route, host={"domains": ["*.example:8080", "x.test"]})
    assert check.reaches(it, document(experiment("chat", match=match)).experiments[0]) is expected
