"""Merging changes only what it must, repeating it changes nothing, and taking it out gives the same bytes."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from typing import Any

import pytest

from abmesh.experiment.errors import RenderError
from abmesh.experiment.model import Document
from abmesh.experiment.parts import IssueCookie
from abmesh.mesh.edge import TOO_MANY
from abmesh.mesh.merge.check import Destination
from abmesh.mesh.merge.find import Names
from abmesh.mesh.merge.into import Wanted, merge, remove
from abmesh.mesh.merge.look import plain
from abmesh.mesh.merge.pieces import Part, Pieces, Takeover, Unassigned
from abmesh.mesh.merge.tree import compose
from tests.abmesh.mesh.documents import document, experiment, values_of
from tests.paths import ROOT

OWN = (ROOT / "docs" / "examples" / "existing-envoy.yaml").read_text()
CHAT = Names("own.yaml", "edge", "api", "llm/chat")
BILLING = replace(CHAT, route="billing")
JSONS = {indent: json.dumps(plain(compose(OWN, "")), indent=indent) + "\n" for indent in (None, 2)}


def cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


PIECES = Pieces(
    http_filters=[{"name": "abmesh.one", "disabled": True}, {"name": "abmesh.two"}],
    early_header_mutations=[{"name": "abmesh.strip"}],
    max_headers=200,
    reply_mappers=[
        {"filter": {"and_filter": {"filters": [{"extension_filter": {"typed_config": {"expression": TOO_MANY}}}]}}}
    ],
    access_log=[{"name": "abmesh.evidence"}],
    histogram_buckets=[{"match": {"prefix": "abmesh."}, "buckets": [1.5, 2]}],
    first_routes=[
        {
            "name": "/_ab/events/unknown",
            "match": {"prefix": "/_ab/events/"},
            "metadata": {"filter_metadata": {"abmesh": {"e": "1"}}},
        }
    ],
    clusters=[cluster("model-a", 8001), cluster("model-b", 8002), cluster("abmesh-ext-proc", 50051)],
    listeners=[{"name": "abmesh-warmup"}],
    node_metadata={"form": "v1", "parts": {"x": "y"}},
)


def take(name: str, own: Destination, experiments: list[Any], unassigned: Unassigned | None) -> Takeover:
    clusters = [{"name": cluster, "weight": weight} for cluster, weight in own.shares]
    return Takeover(
        {"header_name": "x-ab-place", "clusters": clusters},
        {"abmesh.two": {"overrides": {}}},
        [{"header": {"key": "set-cookie", "value": "%DYNAMIC_METADATA(abmesh:set_cookie)%"}}],
    )


def of(path: str = "/llm/", **changes: Any) -> Wanted:
    clusters = {"model-a": {"host": "127.0.0.1", "port": 8001}, "model-b": {"host": "127.0.0.1", "port": 8002}}
    wanted: Document = document(experiment("chat", tuple(clusters), match={"path_prefix": path}), clusters=clusters)
    return replace(Wanted(wanted, PIECES, take), **changes)


def test_only_the_destinations_line_goes_and_everything_else_is_added() -> None:
    made = merge(OWN, CHAT, of()).text
    changed = [line for line in difflib.ndiff(OWN.splitlines(), made.splitlines()) if line[:2] == "- "]
    assert changed == ["-                             cluster: model-a  # 90% of the bill"]
    root = plain(compose(made, ""))
    manager = root["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert [item["name"].rpartition(".")[2] for item in manager["http_filters"]] == [
        "ext_authz",
        "lua",
        "one",
        "two",
        "router",
    ]
    assert manager["common_http_protocol_options"] == {"max_headers_count": 200}
    events, chat, billing, website = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert events == PIECES.first_routes[0]
    assert chat["route"]["weighted_clusters"]["clusters"] == [{"name": "model-a", "weight": 1}]
    assert {key: chat["route"][key] for key in ("prefix_rewrite", "timeout", "retry_policy")} == {
        "prefix_rewrite": "/v1/",
        "timeout": "2s",
        "retry_policy": {"retry_on": "5xx", "num_retries": 2},
    }
    assert chat["metadata"]["filter_metadata"]["envoy.filters.http.lua"] == {"team": "chat"}
    assert (billing["name"], website["name"]) == ("billing", "website")
    names = [item["name"] for item in root["static_resources"]["clusters"]]
    assert names == ["model-a", "billing", "website", "authz", "model-b", "abmesh-ext-proc"]
    assert [item["name"] for item in root["static_resources"]["listeners"]] == ["edge", "abmesh-warmup"]
    assert root["node"]["metadata"] == {"abmesh": {"form": "v1", "parts": {"x": "y"}}}


@pytest.mark.parametrize("text", [OWN, *JSONS.values()], ids=["yaml", "flow", "pretty"])
def test_merging_again_changes_nothing_and_removing_gives_the_same_bytes(text: str) -> None:
    made = merge(text, CHAT, of()).text
    assert merge(made, CHAT, of()).text == made
    assert remove(made, CHAT) == text


def test_a_file_that_was_reformatted_is_still_ours_to_update_and_to_remove() -> None:
    made = merge(OWN, CHAT, of()).text
    converted = json.dumps(plain(compose(made, "")))
    again, before = plain(compose(merge(converted, CHAT, of()).text, "")), plain(compose(made, ""))
    for root in (again, before):
        original = next(values_of(root, "original"))
        assert plain(compose(original if original.endswith("\n") else f"{{{original}}}", "")) == {"cluster": "model-a"}
        next(mark for mark in values_of(root, "abmesh") if "original" in mark).clear()
    assert again == before
    assert plain(compose(remove(converted, CHAT), "")) == plain(compose(OWN, ""))


def test_a_newer_document_replaces_the_older_one() -> None:
    newer = replace(PIECES, http_filters=[{"name": "abmesh.three"}], clusters=[cluster("model-b", 8003)], listeners=[])
    old = merge(OWN, CHAT, of()).text
    assert merge(old, CHAT, of(pieces=newer)).text == merge(OWN, CHAT, of(pieces=newer)).text


def test_two_routes_share_what_they_can_and_part_without_a_trace() -> None:
    both = merge(merge(OWN, CHAT, of("/")).text, BILLING, of("/")).text
    assert merge(both, CHAT, of("/")).text == both
    assert both.count("name: abmesh.two\n") == 1
    assert both.count("- name: abmesh-ext-proc\n") == 1
    without = remove(both, BILLING)
    assert without.count("name: abmesh.two\n") == 1
    assert remove(without, CHAT) == OWN


SECOND = """\
                    - name: second
                      domains: [second.example]
                      routes:
                        - name: chat
                          match: {prefix: /llm/}
                          route: {cluster: website}
"""
HOSTS = OWN.replace("                    - name: api\n", SECOND + "                    - name: api\n")
OTHER = replace(CHAT, virtual_host="second", route="chat")


def listeners() -> str:
    """Two listeners, each with its own connection manager."""
    start = OWN.index("    - name: edge\n")
    end = OWN.index("  clusters:\n    - name: model-a")
    return OWN[:end] + OWN[start:end].replace("- name: edge\n", "- name: inner\n") + OWN[end:]


@pytest.mark.parametrize(
    ("text", "other"), [(HOSTS, OTHER), (listeners(), replace(CHAT, listener="inner"))], ids=["hosts", "listeners"]
)
def test_two_hosts_part_without_a_trace(text: str, other: Names) -> None:
    one = merge(text, CHAT, of()).text
    both = merge(one, other, of()).text
    assert remove(both, other) == one
    assert remove(one, CHAT) == text


def test_a_newer_document_reaches_every_route_that_is_merged() -> None:
    newer = of(pieces=replace(PIECES, first_routes=[], node_metadata={"form": "v1", "parts": {"x": "z"}}))
    older = merge(merge(HOSTS, OTHER, of()).text, CHAT, of()).text
    made = merge(older, CHAT, newer).text
    assert made == merge(merge(HOSTS, OTHER, newer).text, CHAT, newer).text
    assert "/_ab/events/" not in made


def test_another_route_that_no_longer_fits_is_named_with_the_way_out() -> None:
    both = merge(merge(OWN, BILLING, of("/")).text, CHAT, of("/")).text
    with pytest.raises(RenderError, match=r"merged earlier.* --listener edge --virtual-host api --route billing$"):
        merge(both, CHAT, of("/llm/"))


def test_what_was_chosen_for_another_route_stays_chosen() -> None:
    chosen: list[tuple[str, Unassigned | None]] = []

    def seen(name: str, own: Destination, experiments: list[Any], unassigned: Unassigned | None) -> Takeover:
        chosen.append((name, unassigned))
        return take(name, own, experiments, unassigned)

    one = merge(HOSTS, OTHER, of(unassigned=Unassigned.CONTROL)).text
    merge(one, CHAT, of(take=seen))
    assert chosen == [("llm/chat", None), ("chat", Unassigned.CONTROL)]


def test_a_part_of_a_newer_document_is_told() -> None:
    newer = replace(PIECES, node_metadata={"form": "v1", "parts": {"x": "z"}})
    routes = of(parts={Part.ROUTES}, pieces=newer)
    notes = merge(merge(OWN, CHAT, of()).text, CHAT, routes).notes
    assert any("merge filters, clusters, access-logs, too" in note for note in notes)
    assert not any(
        "too" in note for note in merge(merge(OWN, CHAT, of()).text, CHAT, replace(routes, parts=set(Part))).notes
    )


def test_filters_stay_where_they_are_or_go_where_they_are_wanted() -> None:
    def order(text: str) -> list[str]:
        manager = plain(compose(text, ""))["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
        return [item["name"].rpartition(".")[2] for item in manager["typed_config"]["http_filters"]]

    made = merge(OWN, CHAT, of(before="envoy.filters.http.lua")).text
    assert order(made) == ["ext_authz", "one", "two", "lua", "router"]
    assert merge(made, CHAT, of()).text == made
    assert order(merge(made, CHAT, of(before="envoy.filters.http.router")).text)[2:4] == ["one", "two"]
    with pytest.raises(RenderError, match=r"no filter named 'x'; there is: envoy.filters.http.ext_authz, "):
        merge(OWN, CHAT, of(before="x"))


@pytest.mark.parametrize("part", Part)
def test_one_part_at_a_time_gives_the_whole(part: Part) -> None:
    made = merge(OWN, CHAT, of(parts={part})).text
    assert merge(made, CHAT, of(parts={part})).text == made
    assert plain(compose(merge(made, CHAT, of()).text, "")) == plain(compose(merge(OWN, CHAT, of()).text, ""))


def test_a_limit_of_their_own_stays() -> None:
    theirs = OWN.replace(
        "                use_remote_address",
        "                common_http_protocol_options: {max_headers_count: 50}\n                use_remote_address",
    )
    made = merge(theirs, CHAT, of()).text
    assert "max_headers_count: 50}\n" in made
    assert "200" not in made
    assert remove(made, CHAT) == theirs
    assert any("a request with more than 30 may get 431" in note for note in of_notes(theirs))
    assert not any("431" in note for note in (*of_notes(OWN), *of_notes(theirs.replace("50", "200"))))
    assert not any("431" in note for note in of_notes(merge(OWN, CHAT, of()).text)), "that limit is ours"


@pytest.mark.parametrize(
    ("text", "route", "path", "message"),
    [
        (OWN, CHAT, "/other/", r"no request of an experiment takes the route 'llm/chat'; there is: chat \(/other/\)"),
        (
            OWN.replace("port_value: 8001", "port_value: 8009"),
            CHAT,
            "/llm/",
            "cluster 'model-a' leads to 127.0.0.1:8009 here",
        ),
        (
            OWN.replace(
                "- name: website\n                          match: {prefix: /}",
                "- name: website\n                          match: {prefix: /llm/}",
            )
            .replace("llm/chat", "x")
            .replace("- name: website", "- name: llm/chat"),
            CHAT,
            "/llm/",
            "already takes every request",
        ),
    ],
)
def test_what_is_refused(text: str, route: Names, path: str, message: str) -> None:
    with pytest.raises(RenderError, match=message):
        merge(text, route, of(path))


def test_removing_what_was_never_merged_is_refused() -> None:
    with pytest.raises(RenderError, match="abmesh has not taken over the route 'llm/chat'"):
        remove(OWN, CHAT)


def test_buckets_of_their_own_stay_behind_ours() -> None:
    theirs = OWN + "stats_config:\n  histogram_bucket_settings:\n    - match: {prefix: ''}\n      buckets: [1]\n"
    made = merge(theirs, CHAT, of()).text
    buckets = plain(compose(made, ""))["stats_config"]["histogram_bucket_settings"]
    assert [item["match"]["prefix"] for item in buckets] == ["abmesh.", ""]
    assert remove(made, CHAT) == theirs


def test_a_reply_of_their_own_does_not_hide_ours() -> None:
    mapper = "{filter: {status_code_filter: {}}, status_code: 599}"
    at = "                use_remote_address"
    theirs = OWN.replace(at, f"                local_reply_config: {{mappers: [{mapper}]}}\n{at}")
    made = merge(theirs, CHAT, of()).text
    root = plain(compose(made, ""))
    manager = root["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert [item.get("status_code") for item in manager["local_reply_config"]["mappers"]] == [None, 599]
    assert remove(made, CHAT) == theirs


def test_cookies_behind_a_proxy_are_told() -> None:
    issuing = of().document.experiments[0].model_copy(update={"issue_cookie": IssueCookie(name="sid", max_age="1h")})
    wanted = of(document=of().document.model_copy(update={"experiments": (issuing,)}))
    assert merge(OWN, CHAT, wanted).notes == of_notes(OWN)
    assert any(
        "use_remote_address is off" in note
        for note in merge(OWN.replace("use_remote_address: true", "stream_idle_timeout: 5s"), CHAT, wanted).notes
    )


def of_notes(text: str) -> tuple[str, ...]:
    return merge(text, CHAT, of()).notes


def test_the_operator_is_told_what_stays_and_what_is_missed() -> None:
    suppressed = OWN.replace(
        "http.router.v3.Router\n", "http.router.v3.Router\n                      suppress_envoy_headers: true\n"
    )
    notes = merge(suppressed, CHAT, of()).notes
    assert any("cluster 'model-a' is already there" in note for note in notes)
    assert any("suppress_envoy_headers is on" in note for note in notes)
