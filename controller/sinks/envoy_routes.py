"""The file that Envoy takes its routes from as a place where weights go: those of the native lane.

Envoy watches the file's folder, so that a new file takes effect as soon as it is moved into place. Nobody edits this
file: it is made of the document, whoever changed that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from experiment import files
from experiment.store import Snapshot, format_generation
from mesh.routes import RoutesRenderer
from mesh.routes_file import check_routes_file

WHAT: Final = "the routes file"


def routes_text(snapshot: Snapshot, renderer: RoutesRenderer | None = None) -> str:
    """The file's content: JSON, which is YAML as well, with the document's generation as the routes' version."""
    rendered = (renderer or RoutesRenderer()).render(snapshot.document, format_generation(snapshot.generation))
    return json.dumps(rendered) + "\n"


class EnvoyRoutes:
    """A file of routes.

    Args:
        path: the file; its folder must exist, and Envoy must see it under the path that its bootstrap names.

    Raises:
        SettingsError: Envoy would not read a file of that name.
    """

    def __init__(self, path: Path) -> None:
        check_routes_file(str(path))
        self.path = path
        self._renderer = RoutesRenderer()

    def publish(self, snapshot: Snapshot) -> files.Put:
        """Put a document's routes in force.

        Raises:
            RenderError: the document lacks what Envoy needs to know.
            StoreError: the file cannot be written; the old one stays.
        """
        return files.put(self.path, routes_text(snapshot, self._renderer).encode(), WHAT)

    def signature(self) -> files.Signature | None:
        """What changes when anybody changes the file; None if it is gone."""
        return files.signature(self.path)
