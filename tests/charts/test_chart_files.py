"""The chart's files: copies are true, values are described, and the schema refuses what it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.charts.support import CHART, EXAMPLES, Thing, documents, schema, values
from tests.paths import ROOT

COPIES = {"alerts.yaml": "envoy/prometheus/alerts.yaml", "dashboard.json": "envoy/grafana/dashboard.json"}


@pytest.mark.parametrize("name", COPIES)
def test_a_copied_file_is_the_same_as_the_original(name: str) -> None:
    """A chart cannot read files outside of its folder, so it has copies of these."""
    original = ROOT / COPIES[name]
    assert (CHART / "files" / name).read_bytes() == original.read_bytes(), (
        f"cp {COPIES[name]} charts/abmesh/files/{name}"
    )


def test_the_chart_has_the_version_of_the_project() -> None:
    (chart,) = documents((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert (chart["version"], chart["appVersion"]) == (project[1], project[1])


def test_examples_run_the_image_of_that_version() -> None:
    (chart,) = documents((CHART / "Chart.yaml").read_text())
    texts = [file.read_text() for file in sorted(EXAMPLES.rglob("*.yaml"))]
    tags = [tag for text in texts for tag in re.findall(r"image: abmesh:(\S+)", text)]
    assert len(tags) == 3
    assert set(tags) == {chart["appVersion"]}


def test_the_image_has_a_home_for_a_user_that_no_passwd_knows() -> None:
    """Libraries that look for a home fail without one, and the chart mounts only /tmp to write to."""
    environment = re.findall(r"^ENV (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert "HOME=/tmp" in environment[-1].split()


def _objects(found: Any, path: str = "") -> Iterator[tuple[str, Thing]]:
    if isinstance(found, dict):
        if found.get("type") == "object":
            yield path, found
        for key, item in found.items():
            yield from _objects(item, f"{path}/{key}")
    elif isinstance(found, list):
        for item in found:
            yield from _objects(item, path)


def test_every_object_of_the_schema_refuses_fields_that_it_does_not_know() -> None:
    loose = {path for path, item in _objects(schema()) if item.get("additionalProperties") in (None, True)}
    assert loose == {"/properties/global"}, "Helm writes it, and it is not ours"
    free = {path for path, item in _objects(schema()) if isinstance(item.get("additionalProperties"), dict)}
    assert all(path.rpartition("/")[2] in FREE for path in free), free


FREE = {
    *("labels", "podLabels", "podAnnotations", "serviceAccountAnnotations", "nodeSelector", "requests", "limits"),
}
"""Maps whose keys are the user's own."""


def _same_keys(found: Any, described: Thing, path: str = "") -> Iterator[str]:
    if "$ref" in described:
        described = schema()["definitions"][described["$ref"].rpartition("/")[2]]
    if not isinstance(found, dict) or "properties" not in described:
        return
    known = set(described["properties"]) - {"global"}
    yield from (f"{path}/{key} has no default" for key in known - set(found))
    yield from (f"{path}/{key} is not in the schema" for key in set(found) - known)
    for key in known & set(found):
        yield from _same_keys(found[key], described["properties"][key], f"{path}/{key}")


def test_every_value_has_a_default_and_a_place_in_the_schema() -> None:
    assert not [text for text in _same_keys(values(), schema()) if not text.startswith("/controller/resources")]


def test_the_shipped_rights_do_not_depend_on_what_the_cluster_has() -> None:
    """`helm template` knows no APIs, so what hangs on them would be missing from the manifest."""
    for template in (CHART / "templates").iterdir():
        assert "Capabilities" not in template.read_text(), template.name
