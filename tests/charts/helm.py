"""Runs Helm: the one on PATH, or the one that was built for the cluster's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.charts.support import CHART, Key, Thing, by_key, documents

CRD_FILE: Final = CHART / "files" / "experiments.abmesh.dev.yaml"


@cache
def find_helm() -> str | None:
    """Path of Helm; None where there is none."""
    built = sorted(_cache().glob("*/helm"), key=lambda path: path.stat().st_mtime)
    return shutil.which("helm") or (str(built[-1]) if built else None)


def _cache() -> Path:
    """Where `make cluster` keeps the programs that it builds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "abmesh" / "cluster"


def need_helm() -> str:
    """Path of Helm; skips the test where there is none."""
    found = find_helm()
    if found is None:
        pytest.skip("there is no Helm, neither on PATH nor built for the cluster's tests")
    return found


def helm(*arguments: str) -> str:
    """What Helm prints.

    Raises:
        AssertionError: Helm refused; the message is Helm's.
    """
    done = subprocess.run([need_helm(), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def template(*settings: str, hooks: bool = True, namespace: str = "abmesh") -> dict[Key, Thing]:
    """The objects that the chart makes of some ``--set`` values."""
    flags = [word for setting in settings for word in ("--set", setting)]
    chosen = [] if hooks else ["--no-hooks"]
    return by_key(documents(helm("template", "abmesh", str(CHART), "--namespace", namespace, *chosen, *flags)))
