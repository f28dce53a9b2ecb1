"""A bounded cache. Pure; :mod:`ext_proc.service` keeps recent answers in one."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key; a key that has not been used for a while is dropped.

    Two generations: a key that is used moves to the young one; when that is full, it becomes the old one and the
    previous old one is dropped. So the cache holds between ``room`` and twice ``room`` of the most recently used keys,
    and a look-up costs one or two dictionary reads.
    """

    __slots__ = ("_old", "_room", "_young")

    def __init__(self, room: int) -> None:
        """Make an empty cache.

        Args:
            room: keys in one generation.
        """
        self._room = room
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not, or no longer, in the cache."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Store a value, which must not be None."""
        if len(self._young) >= self._room:
            self._old = self._young
            self._young = {}
        self._young[key] = value
