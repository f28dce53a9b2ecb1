"""Which libraries speak HTTP/2 to Envoy, for ``abmesh --version`` and the log: what to look for on the day of a CVE.

Nothing is imported for it, least of all the libraries.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final, get_args

from ext_proc.settings import Transport

LIBNGHTTP2: Final = {"0.3.0": "1.70.0"}
"""The libnghttp2 inside each version of ``ngh2`` that we have pinned.

Its wheels leave out ``nghttp2_version()``, so the library cannot be asked. This is what the sources say that the wheels
are built from (docs/operations/ngh2.md says how to look).
"""


def library(transport: Transport) -> str:
    """What a transport is made of: ``ngh2 0.3.0 with libnghttp2 1.70.0``."""
    package = "ngh2" if transport == "nghttp2" else "grpcio"
    try:
        found = version(package)
    except PackageNotFoundError:
        return f"{package} is not installed"
    if package == "grpcio":
        return f"grpcio {found}"
    return f"ngh2 {found} with libnghttp2 {LIBNGHTTP2.get(found, 'of an unknown version')}"


def libraries() -> dict[Transport, str]:
    """What every transport is made of."""
    return {transport: library(transport) for transport in get_args(Transport)}
