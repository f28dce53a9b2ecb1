"""The builder, with a Go that builds at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cluster.errors import ClusterError
from tests.cluster.programs.builder import build
from tests.cluster.programs.catalogue import PROGRAMS, digest
from tests.cluster.waiting import wait_for
from tests.paths import ROOT

pytestmark = pytest.mark.process

GO = """#!/bin/sh
# Builds a program that says "built"; fails for what is named in the file `broken`; waits while a file `hold` is there.
here=$(dirname "$0")
case "$1" in
version) echo go version go1.99.1 linux/amd64 ;;
env) echo "$here" ;;
list) echo "$here/module" ;;
build)
  echo "$*" >> "$here/calls"
  while [ -e "$here/hold" ]; do sleep 0.05; done
  for last; do :; done
  if grep -qx "$last" "$here/broken" 2>/dev/null; then echo "undefined: something" >&2; exit 1; fi
  while [ "$1" != -o ]; do shift; done
  printf '#!/bin/sh\\necho built\\n' > "$2"; chmod +x "$2" ;;
esac
"""

FIRST = "import pathlib, sys, tests.cluster.programs.builder as b; b.build(print, pathlib.Path(sys.argv[1]), 0)"


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a stand-in for Go, which is first on the PATH."""
    folder = tmp_path / "go"
    files = folder / "module" / "manifests" / "charts" / "base" / "files"
    files.mkdir(parents=True)
    (files / "crd-all.gen.yaml").write_text("istio's\n")
    (folder / "go").write_text(GO)
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_everything_is_built_once(go: Path, tmp_path: Path) -> None:
    said: list[str] = []
    built = build(said.append, tmp_path / "cache", needed=0)
    assert built.folder == tmp_path / "cache" / digest()
    assert built.missing() == []
    assert [file.read_text() for file in built.crds()] == ["istio's\n", "built\n"]
    assert "12 to 20 minutes" in said[0]
    assert sum("took" in line for line in said) == len(PROGRAMS)
    calls = (go / "calls").read_text()
    assert "-X k8s.io/component-base/version.gitVersion=v1.37." in calls
    build(said.append, tmp_path / "cache", needed=0)
    assert (go / "calls").read_text() == calls


def test_a_failed_build_leaves_nothing_half_done_and_goes_on_later(go: Path, tmp_path: Path) -> None:
    (go / "broken").write_text(PROGRAMS[2].package + "\n")
    with pytest.raises(ClusterError, match=r"cmd/kube-controller-manager failed with status 1:\nundefined: something"):
        build(print, tmp_path / "cache", needed=0)
    folder = tmp_path / "cache" / digest()
    assert sorted(file.name for file in folder.iterdir()) == ["etcd", "kube-apiserver", "lock"]
    (go / "broken").unlink()
    (go / "calls").unlink()
    assert build(print, tmp_path / "cache", needed=0).missing() == []
    assert len((go / "calls").read_text().splitlines()) == len(PROGRAMS) - 2


def test_a_full_disk_is_noticed_before(go: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="GB free, and building needs 1000000000 GB; make room"):
        build(print, tmp_path / "cache", needed=10**18)
    assert not (go / "calls").exists()


def test_a_second_builder_waits_for_the_first(go: Path, tmp_path: Path) -> None:
    (go / "hold").touch()
    cache = str(tmp_path / "cache")
    with subprocess.Popen([sys.executable, "-c", FIRST, cache], cwd=ROOT) as first:
        wait_for((go / "calls").exists, "the first builder to build")
        said: list[str] = []
        second = threading.Thread(target=build, args=(said.append, tmp_path / "cache", 0))
        second.start()
        wait_for(lambda: said, "the second builder to wait")
        assert "another process builds" in said[0]
        (go / "hold").unlink()
        assert first.wait(30) == 0
        second.join(30)
    assert len(said) == 1
    assert len((go / "calls").read_text().splitlines()) == len(PROGRAMS)
