"""What is rendered, shown to the real Envoy. Each look takes it about half a second, so these are few."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given

from abmesh.experiment.model import Document
from abmesh.local.processes import find_envoy
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.yaml_text import to_yaml
from tests.abmesh.mesh.documents import document, documents, experiment, render_routes, values_of
from tests.examples import examples
from tests.paths import ROOT

pytestmark = pytest.mark.envoy

TLS = {
    "a": {"host": "api.example.com", "port": 443, "tls": True},
    "b": {"host": "10.0.0.1", "port": 443, "tls": True},
    "c": {"host": "10.0.0.1", "port": 443, "tls": {"sni": "models.internal"}},
}
MATCH = {"path_prefix": "/v1/", "host": "api.example.com", "headers": {"x-tier": "100% gold: no"}}
LONG = [
    {"name": "on", "cluster": "a", "weight": 33.33, "timeout": "3650d"},
    {"name": "n", "cluster": "b", "weight": 33.33, "control": True},
    {"name": "y", "cluster": "c", "weight": 33.34, "timeout": "1ms"},
]


def complaint(text: str, folder: Path) -> str:
    """What Envoy has to say against a configuration; empty if it takes it."""
    file = folder / "bootstrap.yaml"
    file.write_text(text)
    command = [find_envoy(), "--mode", "validate", "-c", str(file), "--use-dynamic-base-id", "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_envoy_accepts_the_readable_copy(tmp_path: Path) -> None:
    assert complaint((ROOT / "envoy" / "bootstrap.yaml").read_text(), tmp_path) == ""


def test_envoy_refuses_what_is_wrong(tmp_path: Path) -> None:
    """Or none of the other tests here could fail."""
    text = to_yaml(render_bootstrap(document(), RenderOptions()))
    assert "normalise_path" in complaint(text.replace("normalize_path", "normalise_path"), tmp_path)


@pytest.mark.parametrize(
    ("options", "of"),
    [
        (RenderOptions(listen="[::]:0", admin="[::1]:0", trusted_hops=1), document(experiment(variants=LONG))),
        (
            RenderOptions(ext_proc=("unix:/run/a.sock", "127.0.0.1:1", "[::1]:2")),
            document(experiment("one", match=MATCH), experiment("two"), experiment("on"), default_cluster="c"),
        ),
        (
            RenderOptions(ext_proc=("abmesh.svc:50051", "10.0.0.1:50051")),
            document(experiment(clusters=("a", "b", "c")), clusters=TLS),
        ),
        (RenderOptions(), document(clusters={"no": {"host": "no", "port": 1}}, experiments=[], default_cluster="no")),
    ],
    ids=["three variants", "several experiments and sockets", "TLS and names", "no experiment"],
)
def test_envoy_accepts_variations(tmp_path: Path, options: RenderOptions, of: Document) -> None:
    assert complaint(to_yaml(render_bootstrap(of, options)), tmp_path) == ""


LONGEST = experiment(
    "native",
    clusters=("a", "b", "c"),
    lane="native",
    unit=[
        {"header": "!#$%&'*+.^_`|~" + "h" * 114},
        {"cookie": "!#$%&'*+.^_`|~-" + "C" * 113},
        {"query": "._~-" + "q" * 124},
    ],
    segments={"header": "!#$&'*+.^_`|~" + "s" * 115, "values": [f"v{number}".ljust(63, "y") for number in range(20)]},
    overrides=[{"header": {"x-group": r"100% %REQ(x)% \1 $", "x-b": "b"}, "variant": "v1"}],
    slices=100,
)


def test_envoy_accepts_the_native_lane_with_the_longest_names_from_bootstrap_and_file(tmp_path: Path) -> None:
    of = document(experiment("first", match=MATCH), LONGEST, clusters=TLS)
    rendered = render_bootstrap(of, RenderOptions())
    for context in values_of(rendered, "trusted_ca"):
        context["filename"] = "/etc/ssl/certs/ca-certificates.crt"
    assert complaint(json.dumps(rendered), tmp_path) == ""
    file = tmp_path / "routes.json"
    file.write_text(json.dumps(render_routes(of, "1")))
    followed = render_bootstrap(document(), RenderOptions(routes_file=str(file)))
    assert complaint(json.dumps(followed), tmp_path) == ""
    del rendered["layered_runtime"]
    assert "max program size of 100" in complaint(json.dumps(rendered), tmp_path), "or a limit need not be raised"


@examples(4, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(of=documents())
def test_envoy_accepts_any_document(tmp_path: Path, of: Document) -> None:
    rendered: dict[str, Any] = render_bootstrap(of, RenderOptions())
    for context in values_of(rendered, "trusted_ca"):
        context["filename"] = "/etc/ssl/certs/ca-certificates.crt"  # Envoy reads the file even to validate
    assert complaint(to_yaml(rendered), tmp_path) == ""
