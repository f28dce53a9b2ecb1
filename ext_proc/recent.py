"""A bounded memory of what was worked out not long ago. Pure; :mod:`ext_proc.service` keeps answers in one."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key, forgotten when they have not been asked for in a while.

    Two generations: what is asked for moves to the young one; when that is full it becomes the old one, and what the
    old one held is gone. So it holds ``room`` to twice ``room`` of the keys that were used last, and costs one or two
    looks into a dictionary.
    """

    __slots__ = ("_old", "_room", "_young")

    def __init__(self, room: int) -> None:
        """Make an empty memory.

        Args:
            room: keys of one generation.
        """
        self._room = room
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not, or not any more, remembered."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember a value, which must not be None."""
        if len(self._young) >= self._room:
            self._old = self._young
            self._young = {}
        self._young[key] = value
