"""An operator's own filters of the kinds that abmesh uses, before and after ours, in both lanes.

Envoy looks a route's settings up by the filter's name. Ours used the usual names, so an operator's Lua authentication
was skipped on a native route, and their external processor was switched off.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.drills.report import Drill
from tests.e2e.rendered_mesh import chat_experiment, rendered_mesh, user

_TYPE = "type.googleapis.com/envoy.extensions.filters.http"
_KEY = {"x-key": "secret"}
_AUTHENTICATE = """\
function envoy_on_request(handle)
  if handle:headers():get("x-key") ~= "secret" then handle:respond({[":status"] = "401"}, "no key") end
end
function envoy_on_response(handle)
  handle:headers():add("x-their-lua", "{where}")
end
"""


def _lua(where: str) -> dict[str, Any]:
    source = {"inline_string": _AUTHENTICATE.replace("{where}", where)}
    return _filter("lua", f"{_TYPE}.lua.v3.Lua", default_source_code=source)


def _ext_proc(where: str) -> dict[str, Any]:
    """Asks the server under a statistics prefix of its own, and lets it change nothing."""
    return _filter(
        "ext_proc",
        f"{_TYPE}.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "abmesh-ext-proc"}},
        failure_mode_allow=True,
        processing_mode={"request_header_mode": "SEND", "response_header_mode": "SKIP"},
        mutation_rules={"disallow_all": True},
        stat_prefix=f"their_{where}",
    )


def _header_mutation(where: str) -> dict[str, Any]:
    append = {"header": {"key": f"x-their-mutation-{where}", "value": "yes"}}
    return _filter(
        "header_mutation",
        f"{_TYPE}.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": [{"append": append}]},
    )


def _cors(_: str) -> dict[str, Any]:
    return _filter("cors", f"{_TYPE}.cors.v3.Cors")


def _filter(kind: str, type_url: str, **config: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{kind}", "typed_config": {"@type": type_url, **config}}


def _theirs() -> Callable[[str], str]:
    made = [_cors, _lua, _ext_proc, _header_mutation]

    def edit(text: str) -> str:
        bootstrap = json.loads(text)
        manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        *ours, router = manager["http_filters"]
        before, after = ([make(where) for make in made] for where in ("before", "after"))
        manager["http_filters"] = [*before, *ours, *after, router]
        (host,) = manager["route_config"]["virtual_hosts"]
        policy = {"allow_origin_string_match": [{"exact": "https://theirs.example"}], "allow_methods": "GET"}
        host["typed_per_filter_config"] = {
            "envoy.filters.http.cors": {"@type": f"{_TYPE}.cors.v3.CorsPolicy", **policy}
        }
        return json.dumps(bootstrap)

    return edit


@pytest.mark.parametrize("lane", ["ext_proc", "native"])
async def test_an_operators_filters_do_their_work_on_our_routes(tmp_path: Path, drill: Drill, lane: str) -> None:
    experiments = [chat_experiment(lane=lane, events=["click"])]
    async with rendered_mesh(tmp_path, edit=_theirs(), experiments=experiments) as mesh:
        ours = "abmesh.requests.experiment.chat.variant."
        for path in ("/v1/x", "/_ab/events/click", "/elsewhere"):
            drill.sent += 1
            reply = await mesh.get(path, user())
            drill.failed += reply.status != 401
            drill.wrong += bool(reply.versions and path != "/v1/x")
        for number in range(10):
            drill.sent += 1
            async with mesh.session.get(mesh.envoy.url + "/v1/x", headers=user() | _KEY) as response:
                seen = {name.lower(): value for name, value in (await response.json())["headers"].items()}
                drill.failed += response.status != 200
                drill.wrong += response.headers.get("x-model-version") not in ("model-a", "model-b")
                drill.wrong += response.headers.getall("x-their-lua") != ["after", "before"]
                drill.wrong += not {"x-their-mutation-before", "x-their-mutation-after"} <= seen.keys()
            found = await mesh.counters("ext_proc.their|abmesh.requests")
            for where in ("before", "after"):
                asked = next(value for name, value in found.items() if f"their_{where}.streams_started" in name)
                # Filters after ours that refuse come after ours only for those with a key.
                drill.wrong += asked < number + 1
        preflight = {"origin": "https://theirs.example", "access-control-request-method": "GET"}
        async with mesh.session.options(mesh.envoy.url + "/v1/x", headers=preflight) as response:
            drill.sent += 1
            drill.wrong += response.headers.get("access-control-allow-origin") != "https://theirs.example"
        counted = sum(value for name, value in (await mesh.counters()).items() if name.startswith(ours))
        assert counted == 10, "nobody without a key"
        drill.operator_reads(f"{lane}: {counted} of {drill.sent} requests are evidence: those with a key")
    assert (drill.failed, drill.wrong) == (0, 0)
