"""The limits of an Envoy that strangers reach: each is rendered, and the page says the same."""

from __future__ import annotations

from typing import Any

import pytest

from abmesh.experiment.errors import SettingsError
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from tests.abmesh.mesh.documents import document, values_of
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "operations" / "envoy.md").read_text()


def bootstrap(**options: Any) -> dict[str, Any]:
    return render_bootstrap(document(), RenderOptions(**options))


def manager() -> dict[str, Any]:
    found: dict[str, Any] = bootstrap()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    typed: dict[str, Any] = found["typed_config"]
    return typed


def test_what_one_client_may_take_is_limited() -> None:
    edge = manager()
    assert edge["common_http_protocol_options"] == {"idle_timeout": "3600s", "max_headers_count": 200}
    assert edge["http2_protocol_options"] == {
        "max_concurrent_streams": 100,
        "initial_stream_window_size": 64 * 1024,
        "initial_connection_window_size": 1024 * 1024,
    }
    assert (edge["request_headers_timeout"], edge["stream_idle_timeout"]) == ("10s", "300s")
    assert "request_timeout" not in edge, "it would cut long answers off"


def test_every_connection_buffers_little() -> None:
    resources = bootstrap(warmup="")["static_resources"]
    buffers = [item["per_connection_buffer_limit_bytes"] for item in (*resources["listeners"], *resources["clusters"])]
    assert set(buffers) == {32 * 1024}
    assert len(buffers) > 2


def test_envoy_gives_memory_back_before_it_refuses_and_refuses_before_it_is_killed() -> None:
    overload = bootstrap(max_heap=256 * 1024**2)["overload_manager"]
    assert list(values_of(overload, "max_heap_size_bytes")) in ([256 * 1024**2], [str(256 * 1024**2)])
    assert list(map(int, values_of(overload, "max_active_downstream_connections"))) == [50_000]
    at = {action["name"]: action["triggers"][0]["threshold"]["value"] for action in overload["actions"]}
    assert at == {"envoy.overload_actions.shrink_heap": 0.95, "envoy.overload_actions.stop_accepting_requests": 0.98}


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_heap: found 1024; allowed: "):
        RenderOptions(max_heap=1024)


def test_too_many_headers_are_the_clients_error() -> None:
    (mapper,) = manager()["local_reply_config"]["mappers"]
    assert mapper["status_code"] == 431
    assert "header_mutation_result_exceeds_limit" in next(values_of(mapper, "expression"))


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("`max_headers_count`", "200"),
        ("`per_connection_buffer_limit_bytes`", "32 KiB"),
        ("HTTP/2 streams; windows", "100; 64 KiB a stream, 1 MiB a connection"),
        ("`request_headers_timeout`", "10 s"),
        ("`idle_timeout`", "1 h"),
        ("connections", "50,000"),
        ("heap", "`--max-heap-mib`, 2 GiB"),
    ],
)
def test_the_page_says_the_same(limit: str, value: str) -> None:
    assert f"| {limit} | {value} |" in PAGE
