"""What is merged is what a bootstrap of ours has, and Envoy accepts it in an operator's file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from abmesh.experiment import names
from abmesh.experiment.errors import RenderError, UnknownName
from abmesh.experiment.model import Document
from abmesh.experiment.places import POSITIONS, place_of
from abmesh.mesh import parts
from abmesh.mesh.merge.find import Names
from abmesh.mesh.merge.into import Wanted, merge, remove
from abmesh.mesh.merge.look import plain, spellings
from abmesh.mesh.merge.pieces import Unassigned
from abmesh.mesh.merge.rendered import pieces, takeover
from abmesh.mesh.merge.tree import compose
from abmesh.mesh.options import RenderOptions
from tests.abmesh.mesh.documents import document, experiment, values_of
from tests.paths import ROOT

OWN = (ROOT / "docs" / "examples" / "existing-envoy.yaml").read_text()
SPLIT = """\
                            weighted_clusters:
                              clusters:
                                - {name: model-a, weight: 90}
                                - name: website
                                  weight: 10
"""
WEIGHTED = OWN.replace("                            cluster: model-a  # 90% of the bill\n", SPLIT)
FIELDS = (
    "static_resources filter_chains typed_config http_filters route_config virtual_hosts weighted_clusters "
    "prefix_rewrite filter_metadata load_assignment lb_endpoints socket_address port_value cluster_name"
)


def _camel(text: str) -> str:
    """The same with names of fields as Envoy accepts them, too."""
    for field in FIELDS.split():
        text = re.sub(rf"\b{field}:", spellings(field)[1] + ":", text)
    return text


CHAT = Names("own.yaml", "edge", "api", "llm/chat")
CLUSTERS = {"model-a": {"host": "127.0.0.1", "port": 8001}, "model-b": {"host": "127.0.0.1", "port": 8002}}


def llm(*more: dict[str, Any], **changes: Any) -> Document:
    chat = experiment("chat", ("model-a", "model-b"), match={"path_prefix": "/llm/"}, **changes)
    return document(chat, *more, clusters=CLUSTERS)


def wanted(of: Document, unassigned: Unassigned | None = None, **options: Any) -> Wanted:
    return Wanted(of, pieces(of, RenderOptions(**options)), takeover(of), unassigned=unassigned)


def route(text: str, name: str = "llm/chat") -> dict[str, Any]:
    manager = plain(compose(text, ""))["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    hosts = manager["typed_config"]["route_config"]["virtual_hosts"]
    found: dict[str, Any] = next(item for item in hosts[0]["routes"] if item["name"] == name)
    return found


def clusters(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = route(text)["route"]["weighted_clusters"]["clusters"]
    return found


@pytest.mark.parametrize(
    "text",
    [OWN, WEIGHTED, json.dumps(plain(compose(OWN, "")), indent=1) + "\n", _camel(WEIGHTED)],
    ids=["yaml", "split", "json", "camel"],
)
@pytest.mark.parametrize("warmup", ["", "127.0.0.1:9902"])
def test_twice_is_once_and_removing_is_as_if_nothing_had_been(text: str, warmup: str) -> None:
    of = wanted(llm(events=["click"], issue_cookie=None), warmup=warmup)
    made = merge(text, CHAT, of).text
    assert merge(made, CHAT, of).text == made
    assert remove(made, CHAT) == text


def test_each_variant_has_its_place_and_the_rest_is_the_routes_own() -> None:
    entries = clusters(merge(OWN, CHAT, wanted(llm())).text)
    assert sum(entry["weight"] for entry in entries) == POSITIONS
    at, found = 0, {}
    for entry in entries:
        if entry["weight"] == 1:
            found[at] = entry["name"]
        else:
            assert entry["name"] == "model-a"
            assert entry["request_headers_to_add"][0]["header"] == {"key": "x-ab-unassigned", "value": "llm/chat"}
        at += entry["weight"]
    assert found == {place_of("chat", "v0"): "model-a", place_of("chat", "v1"): "model-b"}


def test_a_route_named_like_a_format_string_is_counted_by_that_name() -> None:
    """Envoy would fill in a header that a client chose, or refuse to start."""
    odd = replace(CHAT, route="%REQ(x)%")
    made = merge(OWN.replace("name: llm/chat", f"name: '{odd.route}'"), odd, wanted(llm())).text
    marks = [value for value in values_of(plain(compose(made, "")), "value") if "REQ" in str(value)]
    assert set(marks) == {"%%REQ(x)%%"}
    assert len(marks) == 5


def gaps(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in clusters(text):
        if entry["weight"] > 1:
            found[entry["name"]] = found.get(entry["name"], 0) + entry["weight"]
    return found


def test_a_split_of_their_own_becomes_the_control_or_stays() -> None:
    assert set(gaps(merge(WEIGHTED, CHAT, wanted(llm())).text)) == {"model-a"}
    kept = gaps(merge(WEIGHTED, CHAT, wanted(llm(), Unassigned.ROUTE)).text)
    assert kept["website"] / POSITIONS == pytest.approx(0.1, abs=1e-6)
    assert sum(kept.values()) == POSITIONS - 2
    assert set(gaps(merge(OWN.replace("cluster: model-a  #", "cluster: website  #"), CHAT, wanted(llm())).text)) == {
        "website"
    }


def test_experiments_on_one_route_share_it_unless_they_disagree_on_the_control() -> None:
    second = experiment("second", ("model-b", "model-a"), match={"path_prefix": "/llm/x"})
    both = llm(second)
    assert len([entry for entry in clusters(merge(OWN, CHAT, wanted(both)).text) if entry["weight"] == 1]) == 4
    with pytest.raises(RenderError, match="controls on different clusters, model-a, model-b"):
        merge(WEIGHTED, CHAT, wanted(both))


def test_an_experiment_that_an_earlier_route_takes_is_left_to_it() -> None:
    both = llm(experiment("web", ("model-b", "model-a"), match={"path_prefix": "/"}))
    website = replace(CHAT, route="website")
    first = merge(OWN, CHAT, wanted(both, Unassigned.ROUTE)).text
    made = merge(first, website, wanted(both))
    assert any(
        "'llm/chat' comes before 'website' and takes every request of the experiment 'chat'" in note
        for note in made.notes
    )
    entries = route(made.text, "website")["route"]["weighted_clusters"]["clusters"]
    assert [entry["name"] for entry in entries if entry["weight"] == 1] in (
        ["model-a", "model-b"],
        ["model-b", "model-a"],
    )
    with pytest.raises(RenderError, match="already takes every request of the experiment 'chat'"):
        merge(OWN, website, wanted(llm()))


def test_a_cookie_that_is_issued_later_needs_no_new_merge() -> None:
    issuing = llm(unit=[{"cookie": "sid"}], issue_cookie={"name": "sid", "max_age": "1h"})
    added = [route(merge(OWN, CHAT, wanted(of)).text)["response_headers_to_add"] for of in (llm(), issuing)]
    assert added[0] == added[1]


def test_a_cluster_must_be_in_the_file_or_in_the_document() -> None:
    without = llm().model_copy(update={"clusters": None})
    with pytest.raises(UnknownName, match="no cluster named 'model-b'; there is: model-a, billing"):
        merge(OWN, CHAT, wanted(without))
    theirs = OWN.replace(
        "    - name: website\n      type", "    - {name: model-b, type: EDS}\n    - name: website\n      type"
    )
    made = plain(compose(merge(theirs, CHAT, wanted(without)).text, ""))
    assert [item["name"] for item in made["static_resources"]["clusters"]].count("model-b") == 1


def test_events_come_first_only_if_there_are_events() -> None:
    def first(of: Document) -> str:
        text = merge(OWN, CHAT, wanted(of)).text
        manager = plain(compose(text, ""))["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
        name: str = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]["name"]
        return name

    assert first(llm()) == "llm/chat"
    assert first(llm(events=["click"])) == "chat/events/click"


def test_clients_may_send_none_of_the_headers_that_envoy_or_the_server_set() -> None:
    made = pieces(llm(), RenderOptions())
    patterns = [re.compile(item) for item in values_of(list(made.early_header_mutations), "regex")]
    ours = {*names.SET_BY_SERVER, *names.SET_BY_ENVOY, "x-ab-mirror", "x-ab-nowhere", "x-ab-warmup"} - {
        names.MODEL_VERSION
    }
    assert all(any(pattern.fullmatch(name) for pattern in patterns) for name in ours)
    assert all(any(pattern.fullmatch(name.replace("-", "_")) for pattern in patterns) for name in ours)
    assert not any(pattern.fullmatch("x-ab-test-of-theirs") for pattern in patterns)


def test_the_node_says_what_was_merged_and_only_what_it_depends_on() -> None:
    made = plain(compose(merge(OWN, CHAT, wanted(llm())).text, ""))["node"]["metadata"]
    found = parts.read_metadata(made)
    assert found is not None
    assert parts.stale(found, parts.digests(llm())) == ()
    assert parts.stale(found, parts.digests(llm(events=["click"]))) != ()
    assert not any(name.endswith(("native", "default_cluster", "shared_timeout")) for name in found)
