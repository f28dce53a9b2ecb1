"""No value that Istio would drop, or Envoy refuse, gets past: each of them froze a gateway or was lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from abmesh.experiment.errors import RenderError
from abmesh.local.istio_check import check_filters
from abmesh.local.processes import find_envoy
from abmesh.mesh.istio.apply import applied
from abmesh.mesh.istio.envoy_filters import EnvoyFilter
from abmesh.mesh.istio.stats_paths import PROCESS, STATS_PATH
from abmesh.mesh.istio.strict import parsed, problems
from abmesh.mesh.istio.trial import trials
from abmesh.mesh.istio.wanted import Callers, Kind
from controller.evidence.parse import EPOCH, UPTIME
from tests.abmesh.mesh.documents import values_of
from tests.abmesh.mesh.istio.worlds import (
    HOST,
    USUAL,
    api_gateway,
    experiment,
    http_route,
    placed,
    ref,
    rendered,
    service,
    virtual_service,
)

FULL: dict[str, Any] = {
    "unit": [{"header": "x-user-id"}, {"cookie": "abmesh-user"}],
    "issue_cookie": {"name": "abmesh-user", "max_age": "1h"},
    "segments": {"header": "x-segment", "values": ["power"]},
    "events": ["click", {"name": "purchase", "value": {"max": 10}}, "continuation"],
    "answers": {"output_tokens": "usage.out"},
}
MADE = rendered(USUAL, placed(experiment(**FULL)), event_origins=("https://app.example",))
MESH = (*USUAL[:3], virtual_service(hosts=["llm-inference"], gateways=()))


def test_nothing_that_is_rendered_is_wrong() -> None:
    assert [problem for item in MADE.filters for problem in problems(item.body, MADE.clusters)] == []


def test_checking_changes_nothing() -> None:
    before = copy.deepcopy([item.body for item in MADE.filters])
    for item in MADE.filters:
        problems(item.body, MADE.clusters)
    list(trials(MADE.filters))
    assert [list(map(str, values_of(item.body, "value"))) for item in MADE.filters] == [
        list(map(str, values_of(item, "value"))) for item in before
    ]


def _route(body: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = body["spec"]["configPatches"][1]["patch"]["value"]
    return value


def _split(body: dict[str, Any]) -> dict[str, Any]:
    split: dict[str, Any] = _route(body)["route"]["weighted_clusters"]
    return split


def _filter(body: dict[str, Any], name: str) -> dict[str, Any]:
    found = [patch["patch"]["value"] for patch in body["spec"]["configPatches"]]
    config: dict[str, Any] = next(value for value in found if value.get("name") == name)["typed_config"]
    return config


def _no_weight(body: dict[str, Any]) -> None:
    for entry in _split(body)["clusters"]:
        entry["weight"] = 0


def _script(body: dict[str, Any]) -> None:
    codes = _filter(body, "abmesh.answers")["source_codes"]
    for source in codes.values():
        source["inline_string"] = "function envoy_on_response(h"


def _pattern(body: dict[str, Any]) -> None:
    _filter(body, "abmesh.ext_proc")["mutation_rules"]["allow_expression"]["regex"] = "x-("


def _long_pattern(body: dict[str, Any]) -> None:
    _filter(body, "abmesh.ext_proc")["mutation_rules"]["allow_expression"]["regex"] = "x" * 101


def _typed_struct(body: dict[str, Any]) -> None:
    wrong = {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": "type.googleapis.com/none.Such"}
    body["spec"]["configPatches"][1]["patch"]["value"]["typed_config"] = wrong


Change = Callable[[dict[str, Any]], Any]
BAD: dict[str, tuple[str, Change]] = {
    "weights of 0": ("route", _no_weight),
    "weights over uint32": ("route", lambda body: _split(body)["clusters"][0].update(weight=2**32 - 1)),
    "a weight over uint32": ("route", lambda body: _split(body)["clusters"][0].update(weight=2**32)),
    "bad regular expression": ("gateway", _pattern),
    "too long regular expression": ("gateway", _long_pattern),
    "bad Lua": ("gateway", _script),
    "extension that the proxy lacks": ("gateway", _typed_struct),
    "bad duration": ("route", lambda body: _route(body)["route"].update(timeout="soon")),
    "unknown type": ("route", lambda body: _route(body)["typed_per_filter_config"].update(x={"@type": "a/b.C"})),
    "unknown field": ("route", lambda body: _route(body)["route"].update(tiemout="1s")),
    "another spelling": ("route", lambda body: _route(body)["route"].update(weightedClusters={"clusters": []})),
    "unknown field inside": ("gateway", lambda body: _filter(body, "abmesh.ext_proc").update(stats_scope={})),
    "unknown cluster": ("route", lambda body: _split(body)["clusters"][0].update(name="outbound|1||none")),
    "unknown filter": (
        "route",
        lambda body: _route(body)["typed_per_filter_config"].update(
            none=_route(body)["typed_per_filter_config"]["abmesh.answers"]
        ),
    ),
    "wrong kind of value": ("route", lambda body: _route(body)["route"].update(weighted_clusters=[])),
    "unknown applyTo": ("route", lambda body: body["spec"]["configPatches"][1].update(applyTo="VIRTUAL_HOST")),
}


def _broken(name: str) -> EnvoyFilter:
    kind, change = BAD[name]
    found = next(item for item in MADE.filters if item.kind == kind)
    body = copy.deepcopy(found.body)
    change(body)
    return EnvoyFilter(found.kind, found.scope, found.purpose, found.experiments, body, found.route)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_found_where_it_is(name: str) -> None:
    broken = _broken(name)
    found = problems(broken.body, MADE.clusters)
    assert found, name
    assert all(line.startswith(f"EnvoyFilter edge/{broken.key[1]}: configPatches[") for line in found)


def test_the_only_request_for_statistics_is_what_the_controller_reads() -> None:
    assert PROCESS == (UPTIME, EPOCH)
    fenced = list(values_of([item.body for item in MADE.filters if item.kind == "statistics"], "exact"))
    assert fenced == ["GET", STATS_PATH]


@pytest.mark.envoy
def test_envoy_accepts_everything_on_every_kind_of_route() -> None:
    two = experiment(a=f"outbound|8000||{HOST}", b="outbound|8000||model-b.llm.svc.cluster.local", **FULL)
    worlds = [
        MADE,
        rendered((service(), service("model-b"), api_gateway(), http_route()), placed(two, ref(Kind.HTTP_ROUTE))),
        rendered(MESH, placed(experiment(**FULL), callers=Callers(("web",)))),
        rendered(USUAL, placed(), server_socket="/var/run/abmesh/ext_proc.sock"),
    ]
    for made in worlds:
        assert not made.refusals
        check_filters(made.filters, find_envoy())


@pytest.mark.envoy
@pytest.mark.parametrize(
    "name",
    ["weights of 0", "weights over uint32", "bad regular expression", "too long regular expression", "bad Lua"],
)
def test_envoy_refuses_what_only_it_knows(name: str) -> None:
    broken = _broken(name)
    filters = [broken if item.key == broken.key else item for item in MADE.filters]
    with pytest.raises(RenderError, match="Envoy refuses what is rendered for the gateways of the namespace edge"):
        check_filters(filters, find_envoy())


def test_a_second_time_changes_nothing_of_a_route() -> None:
    """Two hosts of one virtual host are patched one after the other."""
    route = next(item.body for item in MADE.filters if item.kind == "route")
    (scope, once), *_ = trials([item for item in MADE.filters if item.kind != "events"])
    twice = applied(once, [route], scope.context)
    wanted = list(values_of(once, "weighted_clusters"))
    assert list(values_of(twice, "weighted_clusters")) == wanted
    assert parsed("HTTP_ROUTE", {"name": "x"}).name == "x"
