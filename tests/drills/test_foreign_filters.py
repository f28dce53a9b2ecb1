"""Issue 12, entry 1: our settings on a route reach no filter of the same kind that was there before us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.drills.report import Drill
from tests.e2e.rendered_mesh import chat_experiment, rendered_mesh, user

pytestmark = pytest.mark.envoy

TYPES = "type.googleapis.com/envoy.extensions.filters.http"
AUTHENTICATION = """
function envoy_on_request(handle)
  if not handle:headers():get("x-api-key") then handle:respond({[":status"] = "401"}, "who are you?") end
end
function envoy_on_response(handle)
  handle:headers():add("x-theirs", "lua")
end
"""


def foreign(when: str) -> list[dict[str, Any]]:
    """Filters of an operator, of the kinds of ours and with the names that everybody gives them."""
    lua = {"@type": f"{TYPES}.lua.v3.Lua", "default_source_code": {"inline_string": AUTHENTICATION}}
    mutation = {"append": {"header": {"key": "x-theirs", "value": "mutation"}}}
    ext_proc = {
        "@type": f"{TYPES}.ext_proc.v3.ExternalProcessor",
        "stat_prefix": when,
        "grpc_service": {"envoy_grpc": {"cluster_name": "abmesh-ext-proc"}},
        "processing_mode": {"response_header_mode": "SKIP"},
        "forward_rules": {"disallowed_headers": {"patterns": [{"exact": "x-user-id"}]}},
    }
    configs = {
        "lua": lua,
        "header_mutation": {
            "@type": f"{TYPES}.header_mutation.v3.HeaderMutation",
            "mutations": {"response_mutations": [mutation]},
        },
        "cors": {"@type": f"{TYPES}.cors.v3.Cors"},
        "ext_proc": ext_proc,
    }
    return [{"name": f"envoy.filters.http.{kind}", "typed_config": config} for kind, config in configs.items()]


def with_foreign_filters(bootstrap: str) -> str:
    found = json.loads(bootstrap)
    manager = found["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    *ours, router = manager["http_filters"]
    manager["http_filters"] = [*foreign("before"), *ours, *foreign("after"), router]
    return json.dumps(found)


@pytest.mark.parametrize("lane", ["ext_proc", "native"])
async def test_an_operators_own_filters_see_every_request(lane: str, tmp_path: Path, drill: Drill) -> None:
    experiments = [chat_experiment(lane=lane, events=["click"])]
    async with rendered_mesh(tmp_path, edit=with_foreign_filters, experiments=experiments) as mesh:
        headers = user() if lane == "ext_proc" else {"x-user-id": "user-1"}
        if lane == "ext_proc":
            while not (await mesh.get(headers=headers | {"x-api-key": "k"})).versions:
                drill.sent += 1
            drill.sent += 1
        for _ in range(50):
            drill.sent += 1
            async with mesh.session.get(mesh.envoy.url + "/v1/x", headers=headers | {"x-api-key": "k"}) as answer:
                told = answer.headers
                drill.failed += answer.status != 200
                drill.wrong += len(told.getall("x-model-version", ())) != 1
                drill.wrong += sorted(told.getall("x-theirs", ())) != ["lua", "lua", "mutation", "mutation"]
        reached = drill.sent
        for path in ("/v1/x", "/_ab/events/click"):
            drill.sent += 1
            # Their authentication is not skipped, neither on a variant's route nor on an event's.
            drill.wrong += (await mesh.get(path, headers)).status != 401
        assert (drill.failed, drill.wrong) == (0, 0)
        found = await mesh.counters(r"^http.abmesh.ext_proc.(before|after).streams_started$")
        # Whoever has no key is refused before their first external processor.
        assert set(found.values()) == {reached}, found
        assert len(found) == 2
        drill.operator_reads(*(f"{name}: {value}" for name, value in found.items()))
