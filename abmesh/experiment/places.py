"""Places: the positions at which a route's weighted clusters hold the variants. Pure.

A route picks one of its weighted clusters by a number in the request header ``x-ab-place``, modulo the sum of their
weights. Each variant owns one of :data:`POSITIONS` positions; all others belong to the route's own destination. So a
request without a place, with a garbled one, or with that of a variant that this Envoy does not know goes where the
route went without abmesh. A place depends on names alone: the server that names it and the Envoys that look it up share
no numbering, and new weights change no route.

:mod:`abmesh.mesh.places` renders the positions and :mod:`ext_proc.wire` names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import xxhash

POSITIONS: Final = 2**32 - 1
"""Number of positions, from 0: the largest sum of weights that Envoy accepts."""

_FIRST: Final = 4_290_000_000
"""The lowest place. Numbers that a client or a proxy might think of stay below it."""


def place_of(experiment: str, variant: str) -> int:
    """The position of a variant, from 4,290,000,000 to 4,294,967,294.

    Args:
        experiment: the experiment's identity: its name in a document.
        variant: the variant's name.
    """
    digest = xxhash.xxh64_intdigest(f"{experiment}/{variant}".encode())
    return _FIRST + digest % (POSITIONS - _FIRST)


def shared_place(experiment: str, variants: Iterable[str]) -> tuple[str, str] | None:
    """Two variants that would share a position, so that no route could tell them apart; None if there are none."""
    owners: dict[int, str] = {}
    for variant in variants:
        owner = owners.setdefault(place_of(experiment, variant), variant)
        if owner != variant:
            return owner, variant
    return None
