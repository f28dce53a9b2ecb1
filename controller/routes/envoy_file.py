"""The routes file: Envoy reads its routes from it, and so the weights of the native lane.

Envoy watches the file's folder, so a new file takes effect as soon as it is moved into place. The file is generated
from the document; do not edit it.

A second file beside it records the clusters in the Envoy's bootstrap. A running Envoy refuses routes to any other
cluster and keeps its last good routes. An Envoy that starts with such routes has none, and answers 404 to everything.
So they are never written.

Used by :mod:`controller.routes.publisher` and by the commands ``render`` and ``routes``.
"""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Final

from abmesh.atomic import Signature, signature
from abmesh.experiment import files
from abmesh.experiment.errors import StoreError
from abmesh.experiment.model import Document
from abmesh.experiment.secrets import held, read_salts
from abmesh.experiment.store import FileStore, Snapshot, format_generation
from abmesh.mesh.clusters import used_clusters
from abmesh.mesh.native import is_native
from abmesh.mesh.routes import RoutesRenderer
from abmesh.mesh.routes_file import check_routes_file

log = logging.getLogger("abmesh.routes")

WHAT: Final = "the routes file"
RECORD: Final = "the record of Envoy's clusters"
RECORD_ENDING: Final = ".clusters"


def document_store(path: Path) -> FileStore:
    """The document with what Envoy's configuration needs: the secret salts of the native lane, and no other secret."""
    return FileStore(path, secrets=lambda document: read_salts(document, is_native))


def secrets_shown(snapshot: Snapshot) -> str:
    """The secrets that Envoy's configuration holds, in words; empty if there are none."""
    return ", ".join(held(snapshot.document))


def routes_text(snapshot: Snapshot, renderer: RoutesRenderer | None = None) -> str:
    """The file's content: JSON, which is also YAML, with the document's generation as the routes' version."""
    rendered = (renderer or RoutesRenderer()).render(snapshot.document, format_generation(snapshot.generation))
    return json.dumps(rendered) + "\n"


class EnvoyRoutes:
    """One Envoy's routes file.

    Args:
        path: the file. Its folder must exist, and Envoy must see it under the path in its bootstrap.

    Raises:
        SettingsError: Envoy does not read files of that name.
    """

    def __init__(self, path: Path) -> None:
        check_routes_file(str(path))
        self.path = path
        self.record = path.with_name(path.name + RECORD_ENDING)
        self._renderer = RoutesRenderer()

    def begin(self, snapshot: Snapshot) -> files.Put:
        """Write the first routes for an Envoy whose bootstrap is rendered from the same document.

        Raises:
            RenderError: the document lacks something that Envoy needs.
            StoreError: the file, or the record of the bootstrap's clusters, cannot be written.
        """
        names = json.dumps(sorted(used_clusters(snapshot.document)))
        files.put(self.record, f"{names}\n".encode(), RECORD)
        return self.publish(snapshot)

    def publish(self, snapshot: Snapshot) -> files.Put:
        """Write a document's routes.

        Raises:
            RenderError: the document lacks something that Envoy needs.
            StoreError: the file cannot be written, or its routes lead to a cluster that the Envoy does not have. The
                old file stays.
        """
        self._check(snapshot.document)
        secrets = secrets_shown(snapshot)
        put = files.put(self.path, routes_text(snapshot, self._renderer).encode(), WHAT, secret=bool(secrets))
        if secrets and put.written:
            self._warn_of_readers(secrets)
        return put

    def signature(self) -> Signature | None:
        """A value that changes when anybody changes the file; None if it is gone."""
        return signature(self.path)

    def _warn_of_readers(self, secrets: str) -> None:
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & stat.S_IROTH:
            log.warning(
                "%s holds %s and has mode %04o: found a file that everybody may read; allowed: 0600, or 0640 with a "
                "group of Envoy's; change it with chmod, which later writes keep",
                self.path,
                secrets,
                mode,
            )

    def _check(self, document: Document) -> None:
        there = self._recorded()
        missing = sorted(used_clusters(document) - there) if there is not None else []
        if missing:
            raise StoreError(
                f"{self.path}: found routes to {', '.join(missing)}; allowed: the clusters in this Envoy's bootstrap, "
                f"{', '.join(sorted(there or ()))}; the old routes stay, and no change to this document reaches the "
                "native lane, not even to weights: run `abmesh render envoy --routes-file` again and restart Envoy"
            )

    def _recorded(self) -> set[str] | None:
        """The clusters in the Envoy's bootstrap; None if they were not recorded, in which case any is allowed."""
        try:
            found = json.loads(self.record.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._unreadable(str(error)) from error
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self._unreadable("it is not a list of names")
        return set(found)

    def _unreadable(self, why: str) -> StoreError:
        todo = "run `abmesh render envoy --routes-file` again and restart Envoy"
        return StoreError(f"{self.record}: cannot read {RECORD}: {why}; {todo}")
