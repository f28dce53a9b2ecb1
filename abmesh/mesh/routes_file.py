"""What a file of routes may be called. Pure; the one module here that a controller without such a file needs.

It imports none of Envoy's messages, which would take half of such a controller's memory.
"""

from __future__ import annotations

from typing import Final

from abmesh.experiment.errors import SettingsError

ROUTES_ENDINGS: Final = (".json", ".yaml")
"""Of files of routes. What is written is JSON, which is YAML as well."""


def check_routes_file(path: str) -> None:
    """Refuse a name by which Envoy would not find or not read its routes.

    It tells a file's form by its ending, and looks for a path that is not absolute in the folder it was started in.

    Raises:
        SettingsError: as the name says.
    """
    if not path.startswith("/") or not path.endswith(ROUTES_ENDINGS) or not path.isprintable():
        endings = " or ".join(ROUTES_ENDINGS)
        raise SettingsError(f"routes_file: found {path!r}; allowed: an absolute path that ends in {endings}")
