"""What the rendered Envoy does with requests and answers, against a real Envoy and a stand-in server."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import shutil
import ssl
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from abmesh.experiment.places import place_of
from abmesh.mesh.bootstrap import READABLE_ADMIN_PATHS
from abmesh.mesh.buckets import BUCKETS_MS
from tests.e2e.echo_upstream import CLAIMED_VERSION, echo_upstream
from tests.e2e.envoy_process import wait_for
from tests.e2e.rendered_mesh import UNASSIGNED, UNKNOWN, RenderedMesh, rendered_mesh, user

pytestmark = pytest.mark.envoy

FORGED = {
    "X-Model-Version": "model-b",
    "x-ab-experiment": "chat",
    "X-AB-Slice": "3",
    "x-ab-group": "0",
    "x-ab-anything": "1",
    "x-ab-place": str(place_of("chat", "model-b")),
    "x-ab-route": "chat",
    "x-ab-reason": "grow",
    "x-ab-counted": "grow",
    "x-ab-unassigned": "grow",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-upstream-alt-stat-name": "grow",
}


UNDERSCORED = {
    "x_model_version": "model-b",
    "X-Model_Version": "model-b",
    "X_AB_SLICE": "3",
    "x_ab-group": "0",
    "x_envoy_retry_on": "5xx",
}


def trusted(seen: Any) -> dict[str, str]:
    """Headers that a server might take for ours; a CGI or WSGI server does not tell dashes from underscores.

    Without those by which Envoy itself counts the unassigned.
    """
    spelled = {name: name.replace("_", "-") for name in seen}
    found = {
        name: seen[name] for name, same in spelled.items() if same == "x-model-version" or same.startswith("x-ab-")
    }
    assert found.pop("x-ab-unassigned", "chat") == "chat"
    assert found.pop("x-ab-reason", "assigned") == "assigned"
    return found


async def test_an_assigned_request_reaches_its_variant_and_the_answer_says_so(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        for variant in ("model-a", "model-b"):
            reply = await mesh.get(headers=user(variant))
            assert (reply.status, reply.upstream, reply.versions) == (200, variant, (variant,))
            assert reply.seen["x-ab-slice"] == "7"


@pytest.mark.parametrize("up", [True, False], ids=["server up", "server down"])
async def test_forged_headers_change_nothing(tmp_path: Path, up: bool) -> None:
    async with rendered_mesh(tmp_path, server=up) as mesh:
        reply = await mesh.get("/v1/x?sleep=0.05", FORGED)
        assert (reply.status, reply.upstream, reply.versions) == (200, "model-a", ())
        assert trusted(reply.seen) == {}
        assert await mesh.counted(UNASSIGNED, 1) == {UNASSIGNED: 1}
        assert not await mesh.counters("grow")
        if up:
            assigned = await mesh.get(headers=FORGED | user("model-a", 9))
            assert (assigned.upstream, assigned.versions, assigned.seen["x-ab-slice"]) == ("model-a", ("model-a",), "9")
            assert "x-ab-anything" not in assigned.seen


async def test_forged_headers_spelled_with_underscores_reach_no_upstream_and_others_do(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path, server=False, default_cluster="other") as mesh:
        for path in ("/v1/x", "/elsewhere"):
            reply = await mesh.get(path, UNDERSCORED | {"x_user_id": "ada", "x_abc": "1"})
            assert trusted(reply.seen) == {}
            assert "x_envoy_retry_on" not in reply.seen
            assert (reply.seen["x_user_id"], reply.seen["x_abc"]) == ("ada", "1")


async def test_what_the_upstream_says_of_its_version_never_reaches_the_client(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path, default_cluster="other") as mesh:
        for path, headers in (("/v1/x", user()), ("/v1/x", {}), ("/elsewhere", {})):
            reply = await mesh.get(path, headers)
            assert reply.status == 200
            assert CLAIMED_VERSION not in reply.versions


@pytest.mark.parametrize(
    ("query", "status", "own"),
    [("", 200, True), ("?status=503", 503, True), ("?drop", 503, False), ("?sleep=30", 504, False)],
    ids=["answered", "refused by the upstream", "cut off", "timed out"],
)
async def test_every_answer_to_an_assigned_request_is_stamped(
    tmp_path: Path, query: str, status: int, own: bool
) -> None:
    """Answers that Envoy gives itself included: the client must keep its new identity through a failure."""
    async with rendered_mesh(tmp_path) as mesh:
        short = {"x-envoy-upstream-rq-timeout-ms": "300"} if status == 504 else {}
        reply = await mesh.get(f"/v1/x{query}", user(set_cookie="sid=1; Path=/", set=short))
        assert (reply.status, reply.versions) == (status, ("model-b",))
        assert reply.cookies == (("upstream=1",) if own else ()) + ("sid=1; Path=/",)


async def test_requests_without_an_assignment_are_neither_stamped_nor_evidence(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        reply = await mesh.get()
        assert (reply.status, reply.upstream, reply.versions, reply.cookies) == (200, "model-a", (), ("upstream=1",))
        assert (await mesh.get("/elsewhere")).status == 404
        assert await mesh.counted(UNASSIGNED, 1) == {UNASSIGNED: 1}, "other requests are none of our business"


async def test_a_variant_that_this_envoy_does_not_know_is_served_and_counted_as_unassigned(tmp_path: Path) -> None:
    """A server that read a newer document must not make the control's answers count as a new variant's."""
    async with rendered_mesh(tmp_path) as mesh:
        reply = await mesh.get(headers=user("model-c"))
        assert (reply.status, reply.upstream, reply.versions) == (200, "model-a", ())
        assert trusted(reply.seen) == {}
        assert await mesh.counted(UNKNOWN, 1) == {UNKNOWN: 1}
        # An answer that Envoy gives itself, before the control could be told anything, is the variant's as little.
        lost = await mesh.get("/v1/x?drop", user("model-c"))
        assert (lost.status, lost.versions) == (503, ())
        failed = UNKNOWN.replace("200", "503")
        assert await mesh.counted(failed, 1) == {UNKNOWN: 1, failed: 1}


@pytest.mark.parametrize("default", [None, "other"], ids=["404", "default cluster"])
async def test_an_experiment_that_this_envoy_does_not_know_gets_neither_stamp_nor_evidence(
    tmp_path: Path, default: str | None
) -> None:
    """404 is no error: a new experiment would advance on requests that nobody served."""
    status = 404 if default is None else 200
    async with rendered_mesh(tmp_path, default_cluster=default) as mesh:
        for slice_ in (7, None):
            reply = await mesh.get("/elsewhere", user("model-b", slice_, experiment="newexp"))
            assert (reply.status, reply.upstream, reply.versions) == (status, default or "", ())
            assert trusted(reply.seen) == {}
        inside = await mesh.get("/v1/x", user("model-b", experiment="newexp"))
        assert (inside.status, inside.upstream, inside.versions) == (200, "model-a", ())
        assert await mesh.counted(UNKNOWN, 1) == {UNKNOWN: 1}
        assert mesh.envoy.histograms("^abmesh") == {}
        assert (await mesh.get("/elsewhere", user("model-b"))).versions == (), "the server is not asked there"
        assert mesh.envoy.log_lines("error") == []


async def test_overrides_are_neither_evidence_nor_unassigned(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        assert (await mesh.get(headers=user("model-b", None))).versions == ("model-b",)
        await mesh.get()
        assert await mesh.counted(UNASSIGNED, 1) == {UNASSIGNED: 1}


async def test_statistics_equal_what_was_sent(tmp_path: Path) -> None:
    dice = random.Random(7)
    async with rendered_mesh(tmp_path) as mesh:
        sent: Counter[str] = Counter()
        groups: Counter[str] = Counter()
        last = ""
        for _ in range(300):
            variant, slice_ = dice.choice(["model-a", "model-b"]), dice.choice([0, 7, 49, None])
            status = dice.choice([200, 200, 200, 404, 503])
            assert (await mesh.get(f"/v1/x?status={status}", user(variant, slice_))).status == status
            if slice_ is not None:
                tags = f"experiment.chat.variant.{variant}"
                last = f"abmesh.requests.{tags}.slice.{slice_}.code.{status}"
                sent[last] += 1
                groups[f"abmesh.duration.{tags}.group.{slice_ // 5}"] += 1
        found = await mesh.counted(last, sent[last])
        assert {name: value for name, value in found.items() if name.startswith("abmesh.requests.")} == sent
        sums = {name for name in found if ".duration_ms." in name}
        expected = {name.replace("requests", "duration_ms").partition(".code.")[0] for name in sent}
        assert sums == expected

        def all_merged() -> bool:
            bins = mesh.envoy.histograms(r"^abmesh\.duration\.")
            return {name: sum(part["count"] for part in parts) for name, parts in bins.items()} == groups

        await asyncio.to_thread(wait_for, all_merged, "every request in a histogram", 15)
        assert mesh.envoy.log_lines("error") == []


async def test_durations_are_milliseconds_and_their_bins_hold_them(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        replies = [await mesh.get("/v1/x?sleep=0.12", user()) for _ in range(3)]
        name = "abmesh.requests.experiment.chat.variant.model-b.slice.7.code.200"
        found = await mesh.counted(name, 3)
        total = found["abmesh.duration_ms.experiment.chat.variant.model-b.slice.7"]
        assert 3 * 119 <= total <= 1000 * sum(reply.seconds for reply in replies)
        histogram = "abmesh.duration.experiment.chat.variant.model-b.group.1"
        await asyncio.to_thread(wait_for, lambda: histogram in mesh.envoy.histograms("^abmesh"), "a histogram", 15)
        assert all(part["lower_bound"] >= 110 for part in mesh.envoy.histograms("^abmesh")[histogram])


async def test_histograms_have_fine_buckets_where_prometheus_reads_them(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        await mesh.get("/v1/x?sleep=0.12", user())

        def buckets() -> dict[float, int]:
            text = mesh.envoy.admin("/stats/prometheus?filter=^abmesh")
            found = re.findall(r'envoy_abmesh_duration_bucket\{[^}]*group="1",le="([^"]+)"\} (\d+)', text)
            return {float(bound): int(count) for bound, count in found}

        await asyncio.to_thread(wait_for, lambda: buckets().get(math.inf) == 1, "a histogram", 15)
        assert set(buckets()) == {*map(float, BUCKETS_MS), math.inf}
        assert buckets()[99.0] == 0
        text = await asyncio.to_thread(mesh.envoy.admin, "/stats/prometheus?filter=upstream_rq_time")
        assert len(re.findall(r'cluster_upstream_rq_time_bucket\{[^}]*="model-b"', text)) < 25, "only ours"


async def test_clients_that_leave_are_counted_without_an_error_line(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        for path, headers in (("/v1/x?sleep=5", user()), ("/v1/x?stream=5", user()), ("/v1/x", user(sleep=5))):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(mesh.get(path, headers), 0.5)
        tags = "abmesh.requests.experiment.chat.variant.model-b.slice.7"
        found = await mesh.counted(f"{tags}.code.200", 1)
        assert not [name for name in found if "unassigned" in name], "whoever left before the router went nowhere"
        assert (found[f"{tags}.code.0"], found[f"{tags}.code.200"]) == (1, 1), "the latter had its head when it left"
        assert mesh.envoy.log_lines("error") == []


async def test_a_variants_time_limit_holds_with_and_without_the_servers_word(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        unassigned, limited, short, unlimited = await asyncio.gather(
            mesh.get("/v1/x?sleep=8"),
            mesh.get("/v1/x?sleep=8", user("model-a", set={"x-envoy-upstream-rq-timeout-ms": "2000"})),
            mesh.get("/v1/x?sleep=8", user("model-b", set={"x-envoy-upstream-rq-timeout-ms": "200"})),
            mesh.get("/v1/x?sleep=3", user("model-b")),
        )
        assert (unassigned.status, limited.status, short.status, unlimited.status) == (504, 504, 504, 200)
        assert 1.9 < unassigned.seconds < 6, "the control's own, whatever the route's"
        assert 1.9 < limited.seconds < 6
        assert 0.19 < short.seconds < 1.9
        assert "x-envoy-upstream-rq-timeout-ms" not in unlimited.seen


async def test_the_server_gets_only_the_headers_that_the_document_needs(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        headers = {"authorization": "Bearer secret", "cookie": "a=b"} | user(set={"x-ab-group": "names"})
        reply = await mesh.get(headers=headers)
        assert reply.seen["x-ab-group"] == ":authority,:path,x-user-id"
        assert reply.seen["authorization"] == "Bearer secret"


async def test_the_server_can_set_nothing_but_its_own_headers(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        wanted = {"host": "evil", ":path": "/evil", "x-other": "1", "x-envoy-retry-on": "5xx", "x-ab-counted": "1"}
        reply = await mesh.get(headers=user(set=wanted))
        assert (reply.status, reply.path, reply.versions) == (200, "/v1/x", ("model-b",))
        assert not {"x-other", "x-envoy-retry-on", "x-ab-counted"} & set(reply.seen)
        assert reply.seen["host"] != "evil"
        rejected = await mesh.counters("ext_proc.rejected_header_mutations")
        assert list(rejected.values()) == [5]


@pytest.mark.parametrize("script", [{"immediate": 403}, {"fail": True}], ids=["an answer of its own", "an error"])
async def test_a_server_that_misbehaves_costs_the_assignment_and_not_the_request(
    tmp_path: Path, script: dict[str, Any]
) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        reply = await mesh.get(headers=user(**script))
        assert (reply.status, reply.upstream, reply.versions) == (200, "model-a", ())
        assert (await mesh.get(headers=user())).versions == ("model-b",)


async def test_paths_are_normalised_before_anybody_matches_them(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        assert (await mesh.get("//v1//./y/../x?z=//1")).path == "/v1/x?z=//1"


async def test_first_experiment_that_matches_path_host_and_headers_takes_unassigned_requests(tmp_path: Path) -> None:
    def experiment(name: str, match: dict[str, Any]) -> dict[str, Any]:
        variants = [
            {"name": "a", "cluster": "model-a", "weight": 100, "control": True},
            {"name": "b", "cluster": "model-b", "weight": 0},
        ]
        return {"name": name, "match": match, "unit": [{"header": "x-user-id"}], "variants": variants}

    experiments = [
        experiment("hosted", {"path_prefix": "/v1/", "host": "api.example.com"}),
        experiment("tiered", {"path_prefix": "/v1/", "headers": {"x-tier": "gold"}}),
        experiment("longer", {"path_prefix": "/v1/chat"}),
        experiment("shorter", {"path_prefix": "/v1/"}),
    ]
    asked = [
        ("/v1/chat", {"host": "api.example.com"}, "hosted"),
        ("/v1/chat", {"host": "API.Example.com:8443", "x-tier": "gold"}, "hosted"),
        ("/v1/x", {"host": "apiXexample.com"}, "shorter"),
        ("/v1/x", {"host": "api.example.com.evil"}, "shorter"),
        ("/v1/chat", {"x-tier": "gold"}, "tiered"),
        ("/v1/chat", {"x-tier": "Gold"}, "longer"),
        ("/v1/chats", {}, "longer"),
        ("/v1/Chat", {}, "shorter"),
        ("/v1?/v1/", {}, ""),
        ("/V1/", {}, ""),
    ]
    async with rendered_mesh(tmp_path, server=False, experiments=experiments) as mesh:
        for path, headers, name in asked:
            before = await mesh.counters()
            reply = await mesh.get(path, headers)
            if not name:
                assert reply.status == 404
                continue
            route = UNASSIGNED.replace("chat", name)
            after = await mesh.counted(route, before.get(route, 0) + 1)
            assert sum(after.values()) == sum(before.values()) + 1, (path, headers)


async def test_the_scheme_that_a_client_claims_is_not_believed(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        reply = await mesh.get(headers={"x-forwarded-proto": "https", "x-forwarded-for": "10.0.0.1"})
        assert reply.seen["x-forwarded-proto"] == "http"


async def test_the_admin_endpoint_can_be_read_and_changes_nothing(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path, server=False) as mesh:
        for path in (*READABLE_ADMIN_PATHS, "/stats/prometheus", "/stats?format=json"):
            assert await admin_status(mesh, "GET", path) == 200, path
        for path in (
            "/quitquitquit",
            "/reset_counters",
            "/logging?level=trace",
            "/healthcheck/fail",
            "/runtime_modify?a=b",
        ):
            assert await admin_status(mesh, "POST", path) == 403, path


async def admin_status(mesh: RenderedMesh, method: str, path: str) -> int:
    async with mesh.session.request(method, mesh.envoy.admin_url + path) as response:
        return response.status


async def test_a_restarted_envoy_keeps_its_ports_and_begins_its_statistics_anew(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        await mesh.get()
        await mesh.counted(UNASSIGNED, 1)
        before = (mesh.envoy.port, mesh.envoy.admin_port, mesh.envoy.pid)
        await asyncio.to_thread(mesh.envoy.restart)
        assert (mesh.envoy.port, mesh.envoy.admin_port) == before[:2]
        assert mesh.envoy.pid != before[2]
        assert await mesh.counters() == {}
        info = json.loads(mesh.envoy.admin("/server_info"))
        assert info["state"] == "LIVE"
        await mesh.until_assigned()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_tls_upstream_is_asked_for_its_name_and_must_prove_it(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=DNS:models.internal"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with echo_upstream("model-a", context) as port:
        clusters = {
            name: {"host": "127.0.0.1", "port": port, "tls": {"sni": sni, "ca_file": str(certificate)}}
            for name, sni in (("model-a", "models.internal"), ("model-b", "others.internal"))
        }
        async with rendered_mesh(tmp_path, clusters=clusters) as mesh:
            trusted_reply, other = await mesh.get(headers=user("model-a")), await mesh.get(headers=user("model-b"))
            assert (trusted_reply.status, trusted_reply.seen["host"]) == (200, "models.internal")
            assert (other.status, other.upstream) == (503, "")
