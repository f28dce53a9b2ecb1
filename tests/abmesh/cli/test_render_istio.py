"""``abmesh render istio``: the committed example, and what is said instead of rendering."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.abmesh.cli.calls import Called, call
from tests.paths import ROOT

EXAMPLE = ROOT / "envoy" / "istio"
FILES = ("--experiments", str(EXAMPLE / "experiment.yaml"), "--resources", str(EXAMPLE / "resources.yaml"))


def render(*flags: str) -> Called:
    return call("render", "istio", *flags)


@pytest.mark.envoy
def test_the_example_is_what_is_rendered_and_a_real_envoy_has_read_it() -> None:
    called = render(*FILES)
    assert called.code == 0, called.err
    assert called.out == (EXAMPLE / "envoyfilters.yaml").read_text()
    assert called.out == render(*FILES).out
    assert "note: CandidateOnRoute: llm-serving/llm-model" in called.err
    assert "no Envoy" not in called.err


@pytest.mark.envoy
def test_so_is_the_route_of_the_example_in_the_native_lane() -> None:
    called = render("--experiments", str(EXAMPLE / "native-experiment.yaml"), *FILES[2:])
    assert called.code == 0, called.err
    (route,) = [part for part in called.out.split("---\n") if "abmesh.dev/kind: route" in part]
    assert route == (EXAMPLE / "native-route.yaml").read_text()


def test_the_example_says_what_each_object_is_for() -> None:
    text = (EXAMPLE / "envoyfilters.yaml").read_text()
    objects = list(YAML(typ="safe").load_all(text))
    assert [item["metadata"]["labels"]["abmesh.dev/kind"] for item in objects if item] == [
        "gateway",
        "statistics",
        "route",
        "events",
    ]
    assert all(part.lstrip().startswith("# ") for part in text.split("---\n"))


def test_every_refusal_is_said_and_nothing_is_printed(tmp_path: Path) -> None:
    services = tmp_path / "services.yaml"
    services.write_text((EXAMPLE / "resources.yaml").read_text().replace("name: default", "name: other"))
    called = render(*FILES[:3], str(services))
    assert called.code == 1
    assert called.out == ""
    assert "llm-serving/llm-model: RouteMissing:" in called.err or "RouteUnnamed" in called.err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--istio-version", "1.29.0"), 1, "IstioTooOld"),
        (("--gateway-namespace", "infra"), 1, "GatewayNotAllowed"),
        (("--server-port", "0"), 2, "server_port: found 0; allowed: 1 to 65535"),
    ],
)
def test_settings_are_checked(flags: tuple[str, ...], code: int, words: str) -> None:
    called = render(*FILES, *flags)
    assert (called.code, called.out) == (code, "")
    assert words in called.err


@pytest.mark.parametrize(
    ("text", "words"),
    [("kind: ConfigMap\n", "no Experiment; allowed"), ("a: [\n", ""), ("\ufffe", "")],
)
def test_a_file_without_experiments_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "experiments.yaml"
    file.write_text(text)
    called = render("-e", str(file), *FILES[2:])
    assert (called.code, called.out) == (1, "")
    assert words in called.err


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "resources.yaml"
    broken.write_text("a: [\n")
    assert "not YAML" in render(*FILES[:3], str(broken)).err
    assert "cannot read" in render(*FILES[:3], str(tmp_path / "none")).err
