"""The listener through which the controller warms a new version, in a real Envoy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.rendered_mesh import RenderedMesh, rendered_mesh, user

pytestmark = pytest.mark.envoy


async def warm(
    mesh: RenderedMesh, variant: str, experiment: str = "chat", query: str = ""
) -> tuple[int, str, Mapping[str, str]]:
    """Status, the upstream that answered, and what it was sent."""
    headers = {"x-model-version": variant, "x-ab-experiment": experiment}
    url = f"http://127.0.0.1:{mesh.envoy.warmup_port}/v1/chat{query}"
    async with mesh.session.post(url, headers=headers, data=b"{}") as response:
        told = await response.json(content_type=None) if "json" in response.headers.get("content-type", "") else {}
        return response.status, told.get("upstream", ""), told.get("headers", {})


@pytest.mark.parametrize("up", [True, False], ids=["server up", "server down"])
async def test_each_variant_is_warmed_through_its_cluster_and_nothing_is_counted(tmp_path: Path, up: bool) -> None:
    async with rendered_mesh(tmp_path, server=up) as mesh:
        for variant in ("model-a", "model-b"):
            status, upstream, seen = await warm(mesh, variant)
            assert (status, upstream) == (200, variant)
            assert seen["x-ab-warmup"] == "1"
        assert (await warm(mesh, "model-a", query="?sleep=30"))[0] == 504, "the variant's own time limit holds"
        assert (await warm(mesh, "model-b", query="?status=503"))[0] == 503
        if up:
            reply = await mesh.get(headers={"x-ab-warmup": "1"} | user())
            assert "x-ab-warmup" not in reply.seen, "nobody else is taken for a warm-up"
            await mesh.counted("abmesh.requests.experiment.chat.variant.model-b.slice.7.code.200", 1)
            counters = await mesh.counters()
            assert sum(value for name, value in counters.items() if ".code." in name) == 1, "the user's request alone"
        else:
            assert await mesh.counters() == {}
        assert mesh.envoy.log_lines("error") == []


async def test_what_names_no_variant_of_this_envoy_is_not_found(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        for variant, experiment in (("model-c", "chat"), ("model-a", "other"), ("", "")):
            assert (await warm(mesh, variant, experiment))[0] == 404
        assert await mesh.counters() == {}
