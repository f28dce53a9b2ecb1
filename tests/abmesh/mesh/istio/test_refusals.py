"""What is left alone, with which reason, and that everything else is as it would be without it."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from abmesh.experiment.errors import RenderError
from abmesh.experiment.model import Experiment
from abmesh.mesh.istio import check, shared_route
from abmesh.mesh.istio.reading import read
from abmesh.mesh.istio.wanted import Callers, Kind, Placed
from abmesh.mesh.merge.pieces import Unassigned
from tests.abmesh.mesh.istio.worlds import (
    BETA,
    HOST,
    SPLIT,
    USUAL,
    A,
    B,
    Json,
    api_gateway,
    experiment,
    gateway,
    http_route,
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

UNNAMED = {"route": SPLIT["route"]}
COOKIE: dict[str, Any] = {
    "unit": [{"cookie": "llm-session"}],
    "issue_cookie": {"name": "llm-session", "max_age": "1h"},
}
HASHES = {"consistentHash": {"httpCookie": {"name": "llm-session", "ttl": "3600s"}}}
HASHED = subsets(name="second", loadBalancer=HASHES)


def routes(*rules: Json, **more: Any) -> tuple[Json, ...]:
    """The usual cluster with another VirtualService."""
    return (*USUAL[:3], virtual_service(*rules, **more))


CASES: dict[str, tuple[tuple[Json, ...], Placed, str, str]] = {
    "missing": (USUAL, placed(None, ref(name="other")), "RouteMissing", "there is: chat"),
    "no such rule": (routes(SPLIT), placed(None, ref(rule="v9")), "RouteMissing", "there is: v1"),
    "no rules": (routes(hosts=["x"])[:3], placed(), "RouteMissing", "none"),
    "unnamed": (routes(BETA, UNNAMED), placed(None, ref(rule="default")), "RouteUnnamed", "--type=json"),
    "which of two": (routes(SPLIT, SPLIT | {"name": "v2"}), placed(None, ref(rule="")), "RouteUnnamed", "v1, v2"),
    "unnamed beside another's": (
        (*routes(UNNAMED), virtual_service(BETA, name="theirs")),
        placed(None, ref(rule="")),
        "RouteUnnamed",
        "patch virtualservice chat",
    ),
    "doubled in one": (routes(SPLIT, SPLIT), placed(), "RouteDoubled", "2 rules"),
    "doubled in two": (
        (service(), api_gateway(), http_route(), http_route(name="other")),
        placed(experiment(a=f"outbound|8000||{HOST}", b=f"outbound|8000||{HOST}"), ref(Kind.HTTP_ROUTE)),
        "RouteDoubled",
        "HTTPRoute llm/other",
    ),
    "redirect": (routes({"name": "v1", "redirect": {"uri": "/x"}}), placed(), "RouteNotForwarding", "redirects"),
    "direct": (routes({"name": "v1", "directResponse": {"status": 200}}), placed(), "RouteNotForwarding", "answers"),
    "redirecting HTTPRoute": (
        (service(), api_gateway(), http_route({"name": "v1", "filters": [{"type": "RequestRedirect"}]})),
        placed(experiment(a=f"outbound|8000||{HOST}", b=f"outbound|8000||{HOST}"), ref(Kind.HTTP_ROUTE)),
        "RouteNotForwarding",
        "redirects",
    ),
    "delegates": (
        routes({"name": "v1", "delegate": {"name": "child"}}),
        placed(),
        "RouteNotForwarding",
        "VirtualService llm/child",
    ),
    "delegate of nobody": (routes(SPLIT, hosts=(), gateways=()), placed(), "RouteUnattached", "delegates to it"),
    "no gateway": (routes(gateways=["edge/none"]), placed(), "RouteUnattached", "edge/none"),
    "no host": (
        (*USUAL[:2], gateway(hosts=["other.example.com"]), USUAL[3]),
        placed(),
        "RouteUnattached",
        "chat.example.com",
    ),
    "another host": (
        USUAL,
        placed(experiment(match={"host": "other.example.com"})),
        "RouteUnattached",
        "other.example.com",
    ),
    "another namespace": (USUAL, placed(None, ref(namespace="web")), "RouteInOtherNamespace", "allowed: routes in llm"),
    "headers of destinations": (
        routes({"name": "v1", "route": [to("model-a", 90), to("model-b", 10, headers={"request": {}})]}),
        placed(),
        "DestinationHeaders",
        "move the change to the rule",
    ),
    "no port": (
        (service(ports=(8000, 9000)), *USUAL[1:]),
        placed(),
        "DestinationUnknown",
        "destination.port.number",
    ),
    "issues a hashed cookie": ((*USUAL, HASHED), placed(experiment(**COOKIE)), "CookieHashed", "issues the cookie"),
    "reads a hashed cookie": (
        (*USUAL, HASHED),
        placed(experiment(unit=[{"cookie": "llm-session"}])),
        "CookieHashed",
        "llm/second",
    ),
    "authority": (
        (*routes(SPLIT | {"rewrite": {"authority": "llm-inference.llm"}}), service("model-b")),
        placed(experiment(b="outbound|8000||model-b.llm.svc.cluster.local")),
        "AuthorityRewritten",
        "on another",
    ),
    "native": (USUAL, placed(experiment(lane="native")), "LaneUnsupported", "outside of the Experiment's match"),
    "no service": (USUAL[1:], placed(), "BackendMissing", f"no Service {HOST}"),
    "no service port": (
        USUAL,
        placed(experiment(b=B.replace("8000", "9000"))),
        "BackendMissing",
        "no port 9000; it has: 8000",
    ),
    "no subset": ((USUAL[0], subsets("model-a"), *USUAL[2:]), placed(), "BackendMissing", "there is: model-a"),
    "no cluster of Istio's": (USUAL, placed(experiment(b="model-b")), "BackendMissing", "'model-b'"),
    "other namespace's service": (
        (*USUAL, service("model-b", "gpu")),
        placed(experiment(b="outbound|8000||model-b.gpu.svc.cluster.local")),
        "BackendNotGranted",
        "ReferenceGrant",
    ),
    "no callers": (routes(hosts=["llm-inference"], gateways=()), placed(), "CallersMissing", "callers: {namespaces"),
    "mesh without service": (
        (*USUAL[:3], virtual_service(hosts=["other"], gateways=())),
        placed(callers=Callers(("web",))),
        "BackendMissing",
        "no Service llm/other",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_done_is_refused_with_a_reason_and_nothing_is_rendered(name: str) -> None:
    objects, wanted, reason, words = CASES[name]
    made = rendered(objects, wanted)
    assert refusals(made) == [reason]
    assert words in made.refusals[0].message
    assert not made.filters


def test_the_command_for_an_unnamed_rule_tests_what_it_names_and_asks_for_the_wanted_name() -> None:
    made = rendered(routes(BETA, UNNAMED), placed(None, ref(rule="default")))
    command = made.refusals[0].message.partition("For rule 1: ")[2]
    words = shlex.split(command)
    assert words[:6] == ["kubectl", "-n", "llm", "patch", "virtualservice", "chat"]
    assert json.loads(words[-1]) == [
        {"op": "test", "path": "/spec/http/1/route/0/destination/subset", "value": "model-a"},
        {"op": "add", "path": "/spec/http/1/name", "value": "default"},
    ]


def test_a_single_destinations_headers_are_the_routes_and_stay() -> None:
    assert not rendered(routes({"name": "v1", "route": [to("model-a", headers={"request": {}})]})).refusals


def test_a_neutral_authority_and_a_shared_services_stay() -> None:
    for authority in ("models.internal", HOST):
        assert not rendered(routes(SPLIT | {"rewrite": {"authority": authority}})).refusals


def test_a_grant_lets_a_variant_be_elsewhere() -> None:
    grant = thing(
        "gateway.networking.k8s.io/v1beta1",
        "ReferenceGrant",
        "abmesh",
        "gpu",
        {
            "from": [{"group": "abmesh.dev", "kind": "Experiment", "namespace": "llm"}],
            "to": [{"group": "", "kind": "Service", "name": "model-b"}],
        },
    )
    wanted = placed(experiment(b="outbound|8000||model-b.gpu.svc.cluster.local"))
    assert not rendered((*USUAL, service("model-b", "gpu"), grant), wanted).refusals


@pytest.mark.parametrize("version", ["1.29.4", "0.9", "latest"])
def test_an_older_istio_gets_nothing(version: str) -> None:
    made = rendered(istio_version=version)
    assert refusals(made) == ["IstioTooOld"]
    assert not made.filters


@pytest.mark.parametrize("version", ["1.30.0", "v1.31.2", "1.100.1", "2.0.0"])
def test_newer_ones_do(version: str) -> None:
    assert not rendered(istio_version=version).refusals


def test_a_gateway_elsewhere_than_allowed_is_left_alone() -> None:
    made = rendered(gateway_namespaces=("infra",))
    assert refusals(made) == ["GatewayNotAllowed"]
    assert "allowed: infra" in made.refusals[0].message
    assert not rendered(gateway_namespaces=("edge",)).refusals


def test_two_experiments_at_one_position_are_not_both_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_route, "place_of", lambda _, variant: len(variant))
    made = rendered(USUAL, placed(experiment("one"), created="1"), placed(experiment("two"), created="2"))
    assert [(item.experiment, item.reason) for item in made.refusals] == [("llm/two", "PlaceClash")]
    assert {item.experiments for item in made.filters} == {("llm/one",)}


def test_experiments_of_one_route_agree_about_the_unassigned() -> None:
    one, two = experiment("one"), experiment("two")
    made = rendered(USUAL, placed(one, unassigned=Unassigned.ROUTE), placed(two, unassigned=Unassigned.CONTROL))
    assert refusals(made) == ["UnassignedConflict"]
    other = experiment("two", a=B, b=A)
    assert refusals(rendered(USUAL, placed(one), placed(other))) == ["UnassignedConflict"]
    both = [placed(item, unassigned=Unassigned.ROUTE) for item in (one, other)]
    assert not rendered(USUAL, *both).refusals


def test_no_sidecar_is_covered_twice() -> None:
    mesh = (*USUAL[:3], virtual_service(hosts=["llm-inference"], gateways=()))
    by_namespace, everyone = Callers(("web",)), Callers(everyone=True)
    made = rendered(mesh, placed(experiment("one"), callers=by_namespace), placed(experiment("two"), callers=everyone))
    assert [(item.experiment, item.reason) for item in made.refusals] == [("llm/two", "CallersOverlap")]
    assert {item.scope.namespace for item in made.filters} == {"web"}
    apart = [placed(experiment(name), callers=Callers(labels={"app": name})) for name in ("one", "two")]
    assert not rendered(mesh, *apart).refusals


def test_a_cookie_that_two_experiments_authenticate_in_other_ways_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check_together", lambda found: "two keys" if len(found) > 1 else "")
    made = rendered(USUAL, placed(experiment("one")), placed(experiment("two")))
    assert refusals(made) == ["CookieConflict"]


def test_one_bad_experiment_never_touches_another() -> None:
    good: Experiment = experiment("good")
    with_bad = rendered(USUAL, placed(good), placed(experiment("bad", b=f"outbound|8000|none|{HOST}")))
    assert refusals(with_bad) == ["BackendMissing"]
    assert with_bad.filters == rendered(USUAL, placed(good)).filters


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        {"apiVersion": "v1"},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": 1}},
    ],
)
def test_what_is_no_object_of_kubernetes_is_refused(wrong: Any) -> None:
    with pytest.raises(RenderError, match="is not as Kubernetes has it"):
        read([wrong])


def test_other_kinds_are_left_out() -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {}}
    assert read([config, {"apiVersion": "v1", "kind": "List", "items": [config]}]) == read([])
    assert A != B
