"""The Envoys that are compared, each made of the one that abmesh renders, so that nothing else differs. Pure.

:mod:`bench.contenders` starts them. What a bootstrap holds is said by :func:`mesh.bootstrap.render_bootstrap`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from experiment import names
from experiment.model import Experiment
from mesh import answers

Bootstrap = dict[str, Any]

_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {
    "name": "envoy.filters.http.router",
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


def alone(rendered: Mapping[str, Any], experiment: Experiment) -> Bootstrap:
    """The rendered Envoy without any of abmesh: Envoy itself draws a cluster by weight for every request."""
    weighted = [{"name": variant.cluster, "weight": variant.weight} for variant in experiment.variants]
    return _without_server(rendered, weighted, keep_statistics=False)


def with_statistics(rendered: Mapping[str, Any], experiment: Experiment) -> Bootstrap:
    """The rendered Envoy without our server, but with everything that it measures.

    Envoy draws variant and slice at random, one weighted cluster for each, so that the very counters and histograms
    are kept that are kept with the server, and answers are read for tokens and refusals as they are with it.
    """
    return _without_server(rendered, list(_by_slice(experiment)), keep_statistics=True)


def _by_slice(experiment: Experiment) -> Iterator[dict[str, Any]]:
    slices = experiment.slices
    for variant in experiment.variants:
        for number in range(slices):
            said = {
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


def _without_server(rendered: Mapping[str, Any], weighted: list[dict[str, Any]], *, keep_statistics: bool) -> Bootstrap:
    bootstrap = copy.deepcopy(dict(rendered))
    resources = bootstrap["static_resources"]
    resources["clusters"] = [found for found in resources["clusters"] if found["name"] != names.EXT_PROC_CLUSTER]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    kept = {_ROUTER["name"], answers.NAME} if keep_statistics else {_ROUTER["name"]}
    manager["http_filters"] = [found for found in manager["http_filters"] if found["name"] in kept]
    host = manager["route_config"]["virtual_hosts"][0]
    route = {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": weighted}, "timeout": "0s"}}
    if keep_statistics:
        # Only requests on a variant's route are counted as evidence, and only there are answers read.
        marked = next(found for found in host["routes"] if answers.NAME in found.get("typed_per_filter_config", {}))
        host["routes"] = [{**route, **{key: marked[key] for key in ("metadata", "typed_per_filter_config")}}]
    else:
        host["routes"] = [route]
        del manager["access_log"]
        host.pop("response_headers_to_add")
    return bootstrap


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
