"""What each Envoy was rendered from, in ``envoys.json``, so that ``abmesh status`` can compare it with the document.

Only the leader writes it. Losing it loses nothing: the leader reads it from the Envoys again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from abmesh.experiment.errors import StateError
from controller.state.locks import make_folder, read_file, replace_file

FILE = "envoys.json"


def write_renderings(folder: Path, envoys: Mapping[str, Mapping[str, str] | None]) -> None:
    """Keep the digests that each Envoy gave, by its address; None for one that gave none.

    Raises:
        StateError: the file cannot be written.
    """
    make_folder(folder)
    content = {envoy: None if found is None else dict(found) for envoy, found in envoys.items()}
    replace_file(folder / FILE, json.dumps(content, indent=1).encode(), durable=False)


def read_renderings(folder: Path) -> dict[str, dict[str, str] | None]:
    """What :func:`write_renderings` kept; empty if there is nothing that can be read."""
    try:
        found = json.loads(read_file(folder / FILE))
    except (StateError, OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        str(envoy): {str(name): str(digest) for name, digest in parts.items()} if isinstance(parts, dict) else None
        for envoy, parts in found.items()
    }
