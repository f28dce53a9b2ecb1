"""An experiment of a cluster has its namespace in its name, and everything that reads names can live with it."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from abmesh.experiment.codec import json_schema, parse
from abmesh.experiment.errors import DocumentError
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.places import place_of
from abmesh.mesh import parts
from ext_proc.core.table import compile_document

BASE = {
    "name": "llm/chat",
    "unit": [{"header": "x-user-id"}],
    "variants": [
        {"name": "a", "cluster": "a", "weight": 90, "control": True},
        {"name": "b", "cluster": "b", "weight": 10},
    ],
    "events": ["click"],
}


def document(*names: str) -> Document:
    return Document.model_validate({"version": 1, "experiments": [{**BASE, "name": name} for name in names]})


def test_default_salt_has_no_namespace() -> None:
    experiment = Experiment.model_validate(BASE)
    assert (experiment.name, experiment.label, experiment.hash_salt) == ("llm/chat", "chat", "chat")


def test_places_tell_namespaces_apart() -> None:
    assert place_of("llm/chat", "b") != place_of("web/chat", "b")


def test_the_server_tells_namespaces_apart() -> None:
    table = compile_document(document("llm/chat", "web/chat"))
    for name in ("llm/chat", "web/chat", "web%2Fchat"):
        path = f"/_ab/events/click?experiment={name}".encode()
        assigned = table.assign({":path": [path], ":method": [b"POST"], "x-user-id": [b"u"]}, lambda: "")
        assert (assigned.experiment, assigned.reason) == (name.replace("%2F", "/"), "event")


@pytest.mark.parametrize("name", ["a/b/c", "/chat", "llm/", "LLM/chat", "llm/Chat", f"llm/{'x' * 64}"])
def test_only_labels_stand_on_both_sides(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        Experiment.model_validate({**BASE, "name": name})


def test_a_file_refuses_a_namespace_with_its_line() -> None:
    text = "version: 1\nexperiments:\n- name: llm/chat\n  unit: [{header: x-u}]\n  variants:\n"
    text += "  - {name: a, cluster: a, weight: 90, control: true}\n  - {name: b, cluster: b, weight: 10}\n"
    with pytest.raises(DocumentError) as refused:
        parse(text)
    (told,) = refused.value.problems
    assert (told.path, told.line, told.found) == ("experiments[0].name", 3, "llm/chat")
    assert told.allowed.startswith("a DNS label: ")
    pattern = json_schema()["$defs"]["Experiment"]["properties"]["name"]["pattern"]
    assert not re.search(pattern, "llm/chat")


def test_parts_of_an_envoy_are_told_by_their_experiment() -> None:
    before, after = document("llm/chat", "web/chat"), document("llm/chat", "web/chat")
    changed = after.experiments[1].at({"a": 5000, "b": 5000}, None)
    changed = changed.model_copy(update={"match": changed.match.model_copy(update={"path_prefix": "/v2/"})})
    after = after.model_copy(update={"experiments": (after.experiments[0], changed)})
    assert parts.stale(parts.digests(before), parts.digests(after)) == ("web/chat/match",)
    assert parts.stale(parts.digests(before), parts.digests(document("llm/chat"))) == ("experiments",)


def test_other_weights_leave_nothing_of_the_old_ones() -> None:
    experiment = Experiment.model_validate(BASE)
    assert experiment.cells[9_500].variant == "b"
    after = experiment.at({"a": 10_000, "b": 0}, None)
    assert after.weights == {"a": 10_000, "b": 0}
    assert after.cells[9_500].variant == "a"
