"""``abmesh render envoy --into``: flags, files and messages."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from abmesh.mesh.merge.look import plain
from abmesh.mesh.merge.tree import compose
from tests.abmesh.cli.calls import Called, call
from tests.paths import ROOT

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_bytes((EXAMPLES / "existing-envoy.yaml").read_bytes())
    return path


def render(*flags: str) -> Called:
    return call("render", "envoy", "--config", str(EXAMPLES / "existing-experiments.yaml"), *flags)


def test_in_place_twice_and_out_again(own: Path) -> None:
    before = own.read_bytes()
    own.chmod(0o640)
    flags = ("--into", str(own), "--route", "llm/chat", "--in-place")
    first = render(*flags)
    assert (first.code, first.out) == (0, "")
    assert "note: cluster 'model-a' is already there and stays as it is" in first.err
    assert stat.S_IMODE(own.stat().st_mode) == 0o640
    made = own.read_bytes()
    assert "is already as wanted" in render(*flags).err
    assert own.read_bytes() == made
    assert render(*flags, "--remove").code == 0
    assert own.read_bytes() == before


def test_printed_or_written_elsewhere(own: Path, tmp_path: Path) -> None:
    before = own.read_bytes()
    printed = render("--into", str(own), "--route", "llm/chat").out
    other = tmp_path / "new.yaml"
    assert render("--into", str(own), "--route", "llm/chat", "--output", str(other)).code == 0
    assert other.read_text() == printed
    assert own.read_bytes() == before
    assert "weighted_clusters" in printed


@pytest.mark.parametrize(
    ("parts", "keys"),
    [
        (
            ["filters"],
            {"local_reply_config", "common_http_protocol_options", "early_header_mutation_extensions", "http_filters"},
        ),
        (["access-logs"], {"access_log", "stats_config"}),
        (["clusters"], {"clusters", "listeners"}),
        (["routes"], {"routes", "node"}),
        (["routes", "clusters"], {"routes", "node", "clusters", "listeners"}),
    ],
)
def test_parts_alone_are_printed_for_merging_by_hand(parts: list[str], keys: set[str]) -> None:
    result = render(*(text for part in parts for text in ("--only", part)))
    assert result.code == 0
    found = plain(compose(result.out, ""))
    assert set(found) == keys
    assert "name: unmatched\n" not in result.out


def test_a_part_alone_is_merged(own: Path) -> None:
    text = render("--into", str(own), "--route", "llm/chat", "--only", "clusters").out
    assert "abmesh-ext-proc" in text
    assert "x-ab-place" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--route", "x"], "--route is only for --into FILE"),
        (["--remove"], "--remove is only for --into FILE"),
        (["--in-place"], "--in-place is only for --into FILE"),
        (["--into", "f", "--in-place", "--output", "g"], "--in-place and --output: found both"),
        (["--into", "f", "--remove", "--only", "routes"], "--remove and --only: found both"),
        (["--only", "filter"], "--only: found 'filter'; allowed: filters, routes, clusters, access-logs"),
        (["--into", "f", "--unassigned", "x"], "--unassigned: found 'x'; allowed: route, control"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], message: str) -> None:
    result = render(*flags)
    assert result.code == 2
    assert message in result.err


def test_files_that_cannot_be_read_or_written(own: Path, tmp_path: Path) -> None:
    missing = render("--into", str(tmp_path / "missing.yaml"))
    assert (missing.code, "cannot read" in missing.err) == (1, True)
    own.write_bytes(b"\xff")
    assert "it is not UTF-8 text" in render("--into", str(own)).err
    own.write_bytes((EXAMPLES / "existing-envoy.yaml").read_bytes())
    result = render("--into", str(own), "--route", "llm/chat", "--output", str(tmp_path / "no" / "folder.yaml"))
    assert (result.code, "cannot write" in result.err) == (1, True)


def test_a_refusal_leaves_the_file_alone(own: Path) -> None:
    before = own.read_bytes()
    result = render("--into", str(own), "--route", "billing", "--in-place")
    assert result.code == 1
    assert "no request of an experiment takes the route 'billing'" in result.err
    assert own.read_bytes() == before
