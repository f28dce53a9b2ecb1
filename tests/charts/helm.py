"""Runs Helm: the one that was built for the cluster's tests, or the one on PATH."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.charts.support import CHART, Key, Thing, by_key, documents
from tests.cluster.programs.catalogue import programs

CRD_FILE: Final = CHART / "files" / "experiments.abmesh.dev.yaml"


@cache
def find_helm() -> str | None:
    """Path of Helm; None where there is none."""
    built = Path(programs().path("helm"))
    return str(built) if built.exists() else shutil.which("helm")


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
