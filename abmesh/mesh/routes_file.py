"""Which names a routes file may have. Pure; the only module here that a controller without a routes file needs.

It imports none of Envoy's messages, which would double such a controller's memory.
"""

from __future__ import annotations

from typing import Final

from abmesh.experiment.errors import SettingsError

ROUTES_ENDINGS: Final = (".json", ".yaml")
"""Endings of a routes file's name. Its content is JSON, which is also YAML."""


def check_routes_file(path: str) -> None:
    """Refuse a name under which Envoy could not find or read its routes.

    Envoy recognises a file's format by its ending, and looks for a relative path in the folder that it was started in.

    Raises:
        SettingsError: the path is not absolute, not printable, or has another ending.
    """
    if not path.startswith("/") or not path.endswith(ROUTES_ENDINGS) or not path.isprintable():
        endings = " or ".join(ROUTES_ENDINGS)
        raise SettingsError(f"routes_file: found {path!r}; allowed: an absolute path that ends in {endings}")
