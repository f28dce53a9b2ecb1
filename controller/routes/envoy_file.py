"""The file that Envoy takes its routes from as a place where weights go: those of the native lane.

Envoy watches the file's folder, so that a new file takes effect as soon as it is moved into place. Nobody edits this
file: it is made of the document, whoever changed that.

Beside it lies the record of the clusters that the Envoy's bootstrap has. An Envoy that runs refuses routes to others
and goes on with the last good ones; one that is started with them has none, and answers 404 to everything. So such
routes are never written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from abmesh.atomic import Signature, signature
from abmesh.experiment import files
from abmesh.experiment.errors import StoreError
from abmesh.experiment.model import Document
from abmesh.experiment.store import Snapshot, format_generation
from abmesh.mesh.clusters import used_clusters
from abmesh.mesh.routes import RoutesRenderer
from abmesh.mesh.routes_file import check_routes_file

WHAT: Final = "the routes file"
RECORD: Final = "the record of Envoy's clusters"
RECORD_ENDING: Final = ".clusters"


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
        self.record = path.with_name(path.name + RECORD_ENDING)
        self._renderer = RoutesRenderer()

    def begin(self, snapshot: Snapshot) -> files.Put:
        """Put a document's routes in force for an Envoy whose bootstrap is rendered from the same document.

        Raises:
            RenderError: the document lacks what Envoy needs to know.
            StoreError: the file, or the record of the bootstrap's clusters, cannot be written.
        """
        names = json.dumps(sorted(used_clusters(snapshot.document)))
        files.put(self.record, f"{names}\n".encode(), RECORD)
        return self.publish(snapshot)

    def publish(self, snapshot: Snapshot) -> files.Put:
        """Put a document's routes in force.

        Raises:
            RenderError: the document lacks what Envoy needs to know.
            StoreError: the file cannot be written, or leads to a cluster that the Envoy does not have; the old one
                stays.
        """
        self._check(snapshot.document)
        return files.put(self.path, routes_text(snapshot, self._renderer).encode(), WHAT)

    def signature(self) -> Signature | None:
        """What changes when anybody changes the file; None if it is gone."""
        return signature(self.path)

    def _check(self, document: Document) -> None:
        there = self._recorded()
        missing = sorted(used_clusters(document) - there) if there is not None else []
        if missing:
            raise StoreError(
                f"{self.path}: found routes to {', '.join(missing)}; allowed: the clusters of this Envoy's bootstrap, "
                f"{', '.join(sorted(there or ()))}; the routes stay as they are, and nothing of this document, weights "
                "included, reaches the native lane: run `abmesh render envoy --routes-file` again and restart Envoy"
            )

    def _recorded(self) -> set[str] | None:
        """The clusters of the Envoy's bootstrap; None where nobody recorded them, and any may be there."""
        try:
            found = json.loads(self.record.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._unreadable(str(error)) from error
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self._unreadable("not a list of names")
        return set(found)

    def _unreadable(self, why: str) -> StoreError:
        todo = "run `abmesh render envoy --routes-file` again and restart Envoy"
        return StoreError(f"{self.record}: cannot read {RECORD}: {why}; {todo}")
