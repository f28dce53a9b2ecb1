"""The Envoys that are compared differ in what they are said to differ in, and a real Envoy takes them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from abmesh.experiment.model import Document
from abmesh.local.processes import find_envoy
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.yaml_text import to_yaml
from bench import envoys

DOCUMENT = Document.model_validate(
    {
        "version": 1,
        "clusters": {name: {"host": "127.0.0.1", "port": 8001} for name in ("model-a", "model-b")},
        "experiments": [
            {
                "name": "chat",
                "unit": [{"header": "x-user-id"}],
                "variants": [
                    {"name": "model-a", "cluster": "model-a", "weight": 90, "control": True},
                    {"name": "model-b", "cluster": "model-b", "weight": 10},
                ],
            }
        ],
    }
)
EXPERIMENT = DOCUMENT.experiments[0]
RENDERED = render_bootstrap(DOCUMENT, RenderOptions())


def manager(bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    content: dict[str, Any] = found["typed_config"]
    return content


def weighted(bootstrap: Mapping[str, Any]) -> list[dict[str, Any]]:
    (route,) = manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"]
    clusters: list[dict[str, Any]] = route["route"]["weighted_clusters"]["clusters"]
    return clusters


def test_envoy_alone_differs_only_in_filters_routes_and_statistics() -> None:
    alone = envoys.alone(RENDERED, DOCUMENT)
    assert [found["name"] for found in manager(alone)["http_filters"]] == ["envoy.filters.http.router"]
    assert weighted(alone) == [{"name": "model-a", "weight": 9000}, {"name": "model-b", "weight": 1000}]
    changed = {"http_filters", "route_config", "access_log"}
    ours, its = manager(RENDERED), manager(alone)
    assert {key for key in ours if ours[key] != its.get(key)} == changed
    assert "access_log" not in its
    assert {key for key in RENDERED if RENDERED[key] != alone[key]} == {"static_resources"}
    names = [cluster["name"] for cluster in alone["static_resources"]["clusters"]]
    assert names == ["model-a", "model-b"]


def test_statistics_alone_keeps_the_loggers_and_says_every_slice_of_every_variant() -> None:
    with_statistics = envoys.with_statistics(RENDERED, EXPERIMENT)
    assert manager(with_statistics)["access_log"] == manager(RENDERED)["access_log"]
    routes = manager(RENDERED)["route_config"]["virtual_hosts"][0]["routes"]
    ours = next(route for route in routes if route.get("name") == EXPERIMENT.name)["route"]["weighted_clusters"]
    stamped = next(entry for entry in ours["clusters"] if "response_headers_to_add" in entry)
    (its,) = manager(with_statistics)["route_config"]["virtual_hosts"][0]["routes"]
    assert its["typed_per_filter_config"] == stamped["typed_per_filter_config"], "or no answer would be read"
    filters = [found["name"] for found in manager(with_statistics)["http_filters"]]
    assert filters == ["abmesh.answers", "envoy.filters.http.router"]
    clusters = weighted(with_statistics)
    said = [
        {option["header"]["key"]: option["header"]["value"] for option in cluster["request_headers_to_add"]}
        for cluster in clusters
    ]
    assert {one["x-ab-route"] for one in said} == {EXPERIMENT.name}, "or nothing would be counted"
    assert {(one["x-model-version"], one["x-ab-slice"]) for one in said} == {
        (variant, str(number)) for variant in ("model-a", "model-b") for number in range(50)
    }
    assert {one["x-ab-group"] for one in said} == {str(number) for number in range(10)}
    assert all(cluster["name"] == one["x-model-version"] for cluster, one in zip(clusters, said, strict=True))
    assert sum(cluster["weight"] for cluster in clusters if cluster["name"] == "model-a") == 50 * 9000


def test_the_rendered_bootstrap_is_left_as_it_was() -> None:
    before = to_yaml(RENDERED)
    envoys.alone(RENDERED, DOCUMENT)
    envoys.with_statistics(RENDERED, EXPERIMENT)
    assert to_yaml(RENDERED) == before


@pytest.mark.envoy
@pytest.mark.parametrize("kind", ["answering", "alone", "with_statistics"])
def test_a_real_envoy_takes_it(kind: str, tmp_path: Path) -> None:
    made = {
        "answering": lambda: envoys.answering(10001, 10002),
        "alone": lambda: envoys.alone(RENDERED, DOCUMENT),
        "with_statistics": lambda: envoys.with_statistics(RENDERED, EXPERIMENT),
    }
    config = tmp_path / "bootstrap.yaml"
    config.write_text(to_yaml(made[kind]()))
    command = [find_envoy(), "--mode", "validate", "-c", str(config), "--use-dynamic-base-id"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
