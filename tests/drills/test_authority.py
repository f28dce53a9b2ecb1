"""Envoy names a cluster as Istio does, and calls the server with that name as ``:authority``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.report import Drill
from tests.drills.served_envoy import PATH, USERS, report, served_envoy
from tests.e2e.load import under_load
from tests.ext_proc.clients import scrape

pytestmark = pytest.mark.envoy

NAMES = {
    "istio": "outbound|9000||abmesh.ns.svc.cluster.local",
    "odd": "a b#c<d>e?f@g^h`i{j}k|l/m",
}


@pytest.mark.parametrize(("name", "transport"), [("istio", "nghttp2"), ("odd", "nghttp2"), ("istio", "grpcio")])
async def test_a_clusters_name_as_authority_is_served(tmp_path: Path, drill: Drill, name: str, transport: str) -> None:
    if transport == "nghttp2":
        pytest.importorskip("ngh2")

    def renamed(bootstrap: str) -> str:
        assert '"abmesh-ext-proc"' in bootstrap
        return bootstrap.replace('"abmesh-ext-proc"', f'"{NAMES[name]}"')

    async with served_envoy(tmp_path, "--transport", transport, edit=renamed) as mesh:
        await mesh.assigns()
        async with under_load(mesh.envoy.url, USERS, path=PATH, pause=0) as load:
            await load.more(300)
        unassigned = report(drill, load)
        errors = {key: value for key, value in scrape(mesh.server.metrics).items() if "errors_total{" in key and value}
        drill.operator_reads(f"errors: {errors or 'none'}")
        assert (drill.failed, drill.wrong, unassigned, errors) == (0, 0, 0, {})
