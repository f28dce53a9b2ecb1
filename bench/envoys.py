"""The Envoys that are compared, each made of the one that abmesh renders, so that nothing else differs. Pure.

:mod:`bench.contenders` starts them. What a bootstrap holds is said by :func:`abmesh.mesh.bootstrap.render_bootstrap`.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.mesh import filters
from abmesh.mesh.answers import script_name

Bootstrap = dict[str, Any]

_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER_NAME = "envoy.filters.http.router"
_ROUTER = {
    "name": _ROUTER_NAME,
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


_BODY = (
    '{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",'
    '"content":"Hello there"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}'
)


def answering(listen_port: int, admin_port: int, body: str = _BODY) -> Bootstrap:
    """An upstream that costs next to nothing: an Envoy that answers everything itself, as a model does."""
    json = {
        "header": {"key": "content-type", "value": "application/json"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [json],
    }
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "upstream",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [_ROUTER],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    listener = {"name": "upstream", "address": _loopback(listen_port), "filter_chains": [{"filters": [network]}]}
    return {"static_resources": {"listeners": [listener]}, "admin": {"address": _loopback(admin_port)}}


def alone(rendered: Mapping[str, Any], document: Document) -> Bootstrap:
    """The rendered Envoy without any of abmesh: Envoy itself draws a cluster by weight for every request."""
    bootstrap = _bare(rendered)
    host = _manager(bootstrap)["route_config"]["virtual_hosts"][0]
    host["routes"] = [
        _weighted(
            experiment.match.path_prefix,
            [{"name": variant.cluster, "weight": variant.weight} for variant in experiment.variants],
        )
        for experiment in document.experiments
    ]
    return bootstrap


def native_alone(rendered: Mapping[str, Any], *, headers: bool = True) -> Bootstrap:
    """The rendered Envoy of a document in the native lane, with its routes, and without all else of abmesh.

    Nothing is measured, and no server is asked: what is left is what :func:`alone` has, with the native lane's way to
    match, to choose and to say who was chosen in the place of Envoy's own draw.

    Args:
        rendered: with all that abmesh has.
        headers: whether the upstream and the statistics are told of the choice; plain weighted clusters tell nobody.
    """
    kept = (filters.HEADERS, _ROUTER_NAME) if headers else (_ROUTER_NAME,)
    bootstrap = _bare(rendered, kept)
    host = _manager(bootstrap)["route_config"]["virtual_hosts"][0]
    for route in host["routes"]:
        for where in (route, *route.get("route", {}).get("weighted_clusters", {}).get("clusters", ())):
            of_filters = where.get("typed_per_filter_config", {})
            where["typed_per_filter_config"] = {name: config for name, config in of_filters.items() if name in kept}
    return bootstrap


def lua_split(rendered: Mapping[str, Any], experiment: Experiment) -> Bootstrap:
    """The rendered Envoy without any of abmesh, and with the script that one writes for the same split by hand."""
    bootstrap = _bare(rendered)
    manager = _manager(bootstrap)
    source = {"inline_string": LUA_SPLIT.format(**_lua_values(experiment))}
    lua = {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "default_source_code": source}
    manager["http_filters"].insert(0, {"name": filters.ANSWERS, "typed_config": lua})
    host = manager["route_config"]["virtual_hosts"][0]
    host["routes"] = [
        {
            "match": {
                "prefix": experiment.match.path_prefix,
                "headers": [{"name": names.MODEL_VERSION, "string_match": {"exact": variant.name}}],
            },
            "route": {"cluster": variant.cluster, "timeout": "0s"},
            "response_headers_to_add": [{"header": {"key": names.MODEL_VERSION, "value": variant.name}}],
        }
        for variant in experiment.variants
    ]
    return bootstrap


LUA_SPLIT: Final = """\
function envoy_on_request(handle)
  local headers = handle:headers()
  local user = headers:get("{header}")
  if user == nil then
    local cookie = headers:get("cookie")
    user = cookie and string.match(cookie, "{cookie}=([^;]+)")
  end
  local version = "{control}"
  if user ~= nil then
    local hash = -2128831035 -- FNV-1a: times 16777619, by shifts, since numbers are floats
    for place = 1, #user do
      hash = bit.bxor(hash, string.byte(user, place))
      hash = bit.tobit(hash + bit.lshift(hash, 1) + bit.lshift(hash, 4) + bit.lshift(hash, 7) + bit.lshift(hash, 8)
        + bit.lshift(hash, 24))
    end
    if hash % 10000 >= {border} then version = "{candidate}" end
  end
  headers:replace("x-model-version", version)
end
"""
"""Another hash than the law's, which a script cannot have at that speed; no slices, no segments, no overrides."""


def _lua_values(experiment: Experiment) -> dict[str, object]:
    control, candidate = experiment.variants
    return {
        "header": next(unit.header for unit in experiment.unit if unit.header),
        "cookie": next(unit.cookie for unit in experiment.unit if unit.cookie).replace("-", "%-"),
        "control": control.name,
        "candidate": candidate.name,
        "border": control.weight,
    }


def with_statistics(rendered: Mapping[str, Any], experiment: Experiment) -> Bootstrap:
    """The rendered Envoy without our server, but with everything that it measures.

    Envoy draws variant and slice at random, one weighted cluster for each, so that the very counters and histograms
    are kept that are kept with the server, and answers are read for tokens and refusals as they are with it.
    """
    bootstrap = _without_server(rendered, (_ROUTER_NAME, filters.ANSWERS))
    host = _manager(bootstrap)["route_config"]["virtual_hosts"][0]
    # Answers are read only where a route or place asks for it.
    route = _weighted("/", list(_by_slice(experiment)))
    script = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute",
        "name": script_name(experiment.answers),
    }
    host["routes"] = [{**route, "typed_per_filter_config": {filters.ANSWERS: script}}]
    return bootstrap


def _by_slice(experiment: Experiment) -> Iterator[dict[str, Any]]:
    slices = experiment.slices
    for variant in experiment.variants:
        for number in range(slices):
            said = {
                names.ROUTE: experiment.name,
                names.MODEL_VERSION: variant.name,
                names.EXPERIMENT: experiment.name,
                names.SLICE: str(number),
                names.GROUP: str(number * names.GROUPS // slices),
            }
            yield {
                "name": variant.cluster,
                "weight": variant.weight,
                "request_headers_to_add": [{"header": {"key": key, "value": value}} for key, value in said.items()],
                "response_headers_to_add": [{"header": {"key": names.MODEL_VERSION, "value": variant.name}}],
            }


def _bare(rendered: Mapping[str, Any], filters: Container[str] = (_ROUTER_NAME,)) -> Bootstrap:
    """The rendered Envoy with some of its filters, by default the router alone, and without statistics of ours."""
    bootstrap = _without_server(rendered, filters)
    del _manager(bootstrap)["access_log"]
    return bootstrap


def _without_server(rendered: Mapping[str, Any], filters: Container[str]) -> Bootstrap:
    bootstrap = copy.deepcopy(dict(rendered))
    resources = bootstrap["static_resources"]
    resources["clusters"] = [found for found in resources["clusters"] if found["name"] != names.EXT_PROC_CLUSTER]
    manager = _manager(bootstrap)
    manager["http_filters"] = [found for found in manager["http_filters"] if found["name"] in filters]
    return bootstrap


def _weighted(prefix: str, clusters: list[dict[str, Any]]) -> dict[str, Any]:
    return {"match": {"prefix": prefix}, "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "0s"}}


def _manager(bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    listener = bootstrap["static_resources"]["listeners"][0]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
