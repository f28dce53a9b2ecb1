"""The CustomResourceDefinition is the committed one, and of a form that an API server takes.

``tests/cluster/test_schema.py`` gives it to a real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import re2
from ruamel.yaml import YAML

from abmesh.experiment.fields import LONGEST
from abmesh.kube.schema import definition, text
from abmesh.kube.schema_fields import FORMS, LISTS
from abmesh.kube.schema_parts import PARTS
from abmesh.kube.schema_shape import structural
from abmesh.kube.spec import ExperimentSpec
from abmesh.kube.wording import models, words
from tests.paths import ROOT

ROOT_SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
COMMITTED = ROOT / "charts" / "abmesh" / "files" / "experiments.abmesh.dev.yaml"

KNOWN = {
    "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "properties", "additionalProperties", "items", "required", "default",
    "description", "x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
}  # fmt: skip


def nodes(node: dict[str, Any], path: str = "", *, in_list: bool = False) -> Iterator[tuple[str, dict[str, Any], bool]]:
    yield path, node, in_list
    for name, value in node.get("properties", {}).items():
        yield from nodes(value, f"{path}.{name}" if path else name, in_list=in_list)
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]", in_list=True)
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}{{}}", in_list=in_list)


EVERY = list(nodes(ROOT_SCHEMA))
FIELDS = [
    (path, node) for path, node, _ in EVERY if path not in ("", "apiVersion", "kind", "metadata", "metadata.name")
]


def test_the_committed_file_is_what_the_models_make() -> None:
    assert COMMITTED.read_text() == text(), (
        "run: abmesh schema --kubernetes > charts/abmesh/files/experiments.abmesh.dev.yaml"
    )


def test_it_is_yaml_of_the_definition_without_aliases() -> None:
    assert YAML(typ="safe").load(text()) == definition()
    assert not re.search(r"(?m)[:-] [&*]id", text())


def test_has_only_what_a_structural_schema_knows() -> None:
    assert {key for _, node, _ in EVERY for key in node} <= KNOWN


def test_every_text_list_and_map_is_bounded() -> None:
    unbounded = [
        path
        for path, node in FIELDS
        if (
            node.get("type") == "string"
            and not {"maxLength", "enum"} & node.keys()
            and node.get("format") != "date-time"
        )
        or (node.get("x-kubernetes-int-or-string") and "maxLength" not in node)
        or (node.get("type") == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_no_default_inside_a_list() -> None:
    assert [path for path, node, in_list in EVERY if in_list and "default" in node] == []


def test_every_list_of_the_spec_says_how_it_is_merged() -> None:
    lists = [path for path, node in FIELDS if node.get("type") == "array" and path.startswith("spec")]
    assert sorted(lists) == sorted(f"spec.{path}" for path in LISTS)


def test_patterns_are_re2() -> None:
    for path, node in FIELDS:
        if "pattern" in node:
            assert re2.compile(node["pattern"]), path
            assert all(int(count) <= 1000 for count in re.findall(r",([0-9]+)\}", node["pattern"])), path


@pytest.mark.parametrize("pattern", sorted(LONGEST))
def test_the_greatest_lengths_are_those_of_the_patterns(pattern: str) -> None:
    (least, most) = re._parser.parse(pattern).getwidth()  # type: ignore[attr-defined]
    assert least <= LONGEST[pattern] <= most
    if "*" not in pattern:
        assert LONGEST[pattern] == most


def test_every_field_is_explained_in_words_of_the_object() -> None:
    for path, node in FIELDS:
        if path.endswith(("[]", "{}")) and "properties" not in node:
            continue
        told = node.get("description", "")
        assert told, path
        assert told[0].isupper() or told.split()[0].islower(), (path, told)
        assert not re.search(r"`|\bNone\b|\btuple\b|\bdict\b|experiments\.yaml|the document", told), (path, told)
        assert words(told) == told, path


def test_every_field_of_the_models_is_there() -> None:
    written = {name for _, node, _ in EVERY for name in node.get("properties", {})}
    for model in models(ExperimentSpec):
        for field in model.model_fields.values():
            assert field.alias in written, (model, field.alias)


def test_what_is_added_stands_on_fields_that_exist() -> None:
    spec = {path for path, _, _ in nodes(structural(ExperimentSpec))}
    assert {*FORMS, *LISTS, *PARTS} <= spec


def test_rules_put_values_into_messages_by_format_alone() -> None:
    rules = [rule for _, node, _ in EVERY for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) > 60
    for rule in rules:
        assert rule["message"]
        if "messageExpression" in rule:
            assert re.fullmatch(r"'(?:[^'\\]|\\.)*'\.format\(\[.*\]\)", rule["messageExpression"], re.DOTALL)


def test_shares_and_limits_are_whole_numbers_or_texts() -> None:
    rollout = ROOT_SCHEMA["properties"]["spec"]["properties"]["rollout"]["properties"]
    alpha = rollout["analysis"]["properties"]["alpha"]
    assert alpha["default"] == "5%"
    limit = rollout["guardrails"]["items"]["properties"]["max"]["pattern"]
    for good in ("5%", "0.2%", "250ms", "1h30m", "0.002", "-3", "33.333333%"):
        assert re.search(limit, good), good
    for bad in ("5 percent", "", "1w", "x", "1e3", "5%%"):
        assert not re.search(limit, bad), bad
