"""What a container of an image runs: its entrypoint, as an image's configuration has it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abmesh.local.processes import find_envoy
from tests.paths import ROOT


@dataclass(frozen=True, slots=True)
class Image:
    """One image.

    Attributes:
        entrypoint: what runs where the pod says no ``command``.
        environment: set in every container of it.
        user: uid where the pod says none.
    """

    entrypoint: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int = 0


def repository(reference: str) -> str:
    """An image's name without registry folder, tag and digest: `abmesh` of `ghcr.io/x/abmesh:0.1@sha256:...`."""
    return reference.partition("@")[0].rpartition("/")[2].partition(":")[0]


def shipped() -> dict[str, Image]:
    """By name: abmesh as this checkout is, Envoy, a model server, a shell, and Python."""
    python = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    # Not the `abmesh` beside this Python, which may be another checkout's.
    entry = "import sys; sys.argv[0] = 'abmesh'; from abmesh.cli.main import run; run()"
    return {
        "abmesh": Image([sys.executable, "-c", entry], python, 65532),
        "envoy": Image([find_envoy()], {}, 101),
        "model-server": Image([sys.executable, "-m", "abmesh.local.model_server", "--host", "0.0.0.0"], python),
        "shell": Image(["/bin/sh"]),
        "python": Image([sys.executable], python),
    }


def save(images: Mapping[str, Image], file: Path) -> None:
    """Write images for the kubelet's process."""
    table = {
        name: {"entrypoint": list(image.entrypoint), "environment": dict(image.environment), "user": image.user}
        for name, image in images.items()
    }
    file.write_text(json.dumps(table, indent=1))


def load(file: Path) -> dict[str, Image]:
    """Read what :func:`save` wrote."""
    table: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return {name: Image(**fields) for name, fields in table.items()}
