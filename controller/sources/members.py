"""Which Envoys there are. Asked by :class:`controller.sources.envoy_admin.EnvoyAdminSource` at each tick.

A command line names them once and for all; in a cluster they are pods that come and go, and whose addresses later pods
get. So a member is known by its process, and its address only says where to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Member:
    """One Envoy.

    Attributes:
        key: what identifies its process from tick to tick; never used again.
        address: base address of the endpoint with its statistics, such as ``http://127.0.0.1:9901``.
        name: what people call it.
        started_at: when its process started; None if nobody says.
        ready: whether it should answer. One that is not is asked too, but its silence is not missing data.
        leaving: whether it is about to end; it is treated as one that is not ready.
    """

    key: str
    address: str
    name: str
    started_at: datetime | None = None
    ready: bool = True
    leaving: bool = False


class Fleet(Protocol):
    """Says which Envoys there are."""

    @property
    def complete(self) -> bool:
        """Whether every process is listed as long as it lives, so that one that is listed no more is gone for good."""

    def members(self) -> Sequence[Member]:
        """All of them now."""


class StaticFleet:
    """Envoys at addresses that were given once; whatever process answers there is the member.

    Args:
        addresses: base addresses, each once.
    """

    complete = False

    def __init__(self, addresses: Sequence[str]) -> None:
        self._members = tuple(Member(address, address, address) for address in addresses)

    def members(self) -> Sequence[Member]:
        """All of them."""
        return self._members
